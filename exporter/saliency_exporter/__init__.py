"""Export TensorFlow image classifiers with explain signatures for TensorFlow Serving."""

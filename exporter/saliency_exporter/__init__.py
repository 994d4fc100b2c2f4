"""Export TensorFlow image classifiers with explain signatures for TensorFlow Serving."""

import os

# TensorFlow imports Keras, and Keras chooses its backend once, when it is first imported.
os.environ["KERAS_BACKEND"] = "tensorflow"

"""TensorFlow as a process runs it: its import, its kernels, its compiled programs, a loaded model."""

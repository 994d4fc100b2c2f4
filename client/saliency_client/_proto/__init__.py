"""The part of TensorFlow Serving's protocol that this client speaks, under a private name.

The private package and file name keep it apart from TensorFlow's own descriptors in the same process.
`tests/contract/` compares every field here with the official descriptors.
"""

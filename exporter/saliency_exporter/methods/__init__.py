"""Saliency methods: pure functions of a score function, the model input and the class."""

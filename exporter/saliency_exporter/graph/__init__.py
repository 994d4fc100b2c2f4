"""The forward pass of a model as one flat graph: traced, folded, replayed under rules."""

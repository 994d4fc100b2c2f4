"""Which activations a forward graph contains, recognized by what they compute.

A framework writes one activation in many ways: a ReLU with an upper bound is one op, three or five; GELU
has been written with Erf and with Erfc. So an activation is not matched by its ops. Every part of the graph
that is an elementwise function of one tensor and scalar constants is evaluated on a grid of numbers and
compared with the activations by their definitions. The largest part that is a known activation is taken as
one, so the rectifier inside a hard-swish belongs to the hard-swish and is not a rectifier of its own. One
learned array may take part, as the slopes of a PReLU do: the part is then evaluated for several values of it.
"""

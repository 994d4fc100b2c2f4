import pytest

from saliency_exporter.rules.lowering import lowering_rules


def test_a_cpu_gets_rules_and_a_gpu_keeps_its_own_kernels():
    assert {"DepthwiseConv2dNative", "MaxPool"} <= set(lowering_rules("cpu"))
    assert lowering_rules("gpu") == {}


def test_uncompiled_the_rules_of_a_cpu_are_those_that_are_no_plain_loops():
    assert set(lowering_rules("cpu", compiled=False)) == {"Conv2D"}
    assert lowering_rules("gpu", compiled=False) == {}


def test_an_unknown_target_is_named_in_the_error():
    for compiled in (True, False):
        with pytest.raises(ValueError, match="'tpu'"):
            lowering_rules("tpu", compiled=compiled)

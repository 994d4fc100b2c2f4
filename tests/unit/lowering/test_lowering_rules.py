import pytest

from saliency_exporter.rules.lowering import lowering_rules


def test_a_cpu_gets_rules_and_a_gpu_keeps_its_own_kernels():
    assert {"DepthwiseConv2dNative", "MaxPool"} <= set(lowering_rules("cpu"))
    assert lowering_rules("gpu") == {}


def test_an_unknown_target_is_named_in_the_error():
    with pytest.raises(ValueError, match="'tpu'"):
        lowering_rules("tpu")

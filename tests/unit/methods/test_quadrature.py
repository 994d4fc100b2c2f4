"""The nodes and weights of the graph against rules that NumPy writes out, and against known integrals."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.methods.quadrature import node

ULP = 2.0**-24
CELLS = (1, 2, 3, 10, 12, 19, 50, 1000)
LEVELS = 5


@pytest.fixture(scope="module", params=[False, True], ids=["uncompiled", "compiled"])
def rule(request):
    """Nodes and weights, float64, of a number of cells at a level."""
    called = tf.function(
        node,
        jit_compile=request.param,
        input_signature=[tf.TensorSpec((None,), tf.int32)] * 2,
    )

    def get(cells: int, level: int) -> tuple[np.ndarray, np.ndarray]:
        number = np.arange(cells * 2**level, dtype=np.int32)
        nodes, weights = (part.numpy() for part in called(np.full_like(number, cells), number))
        return nodes.astype(np.float64), weights.astype(np.float64) / 2**level

    return get


@pytest.mark.parametrize("cells", CELLS)
def test_the_first_level_is_the_midpoint_rule_of_squares(rule, cells):
    ends = (np.arange(cells + 1) / cells) ** 2
    nodes, weights = rule(cells, 0)
    np.testing.assert_allclose(nodes, (ends[1:] + ends[:-1]) / 2, rtol=2 * ULP, atol=0)
    np.testing.assert_allclose(weights, np.diff(ends), rtol=2 * ULP, atol=0)


@pytest.mark.parametrize("level", range(1, LEVELS))
@pytest.mark.parametrize("cells", [cells for cells in CELLS if cells > 1])
def test_every_other_level_is_the_trapezoid_rule_of_cells_in_equal_parts(rule, cells, level):
    """The value at 0 is the one to which the values at the first two ends of cells point."""
    ends, parts = (np.arange(cells + 1) / cells) ** 2, 2**level
    grid = np.concatenate([ends[:-1, None] + np.diff(ends)[:, None] * np.arange(parts) / parts]).ravel()
    grid = np.append(grid, 1.0)
    expected = np.zeros(len(grid))
    expected[1:] += np.diff(grid) / 2
    expected[:-1] += np.diff(grid) / 2
    # The weight of 0 is one of the level that added the ends, and is halved with each level since.
    zero = ends[1] / 2 / parts
    first = np.searchsorted(grid, ends[1]), np.searchsorted(grid, ends[2])
    assert expected[0] == pytest.approx(zero)
    expected[first[0]] += 4 / 3 * zero
    expected[first[1]] -= zero / 3
    nodes, weights = rule(cells, level)
    order = np.argsort(nodes)
    np.testing.assert_allclose(nodes[order], grid[1:], rtol=4 * ULP, atol=0)
    np.testing.assert_allclose(weights[order], expected[1:], rtol=4 * ULP, atol=0)


@pytest.mark.parametrize(
    ("cells", "level"), [(cells, level) for cells in CELLS for level in range(LEVELS if cells > 1 else 1)]
)
def test_what_is_linear_is_integrated_exactly(rule, cells, level):
    nodes, weights = rule(cells, level)
    assert (nodes > 0).all()
    assert (nodes <= 1).all()
    assert np.sum(weights) == pytest.approx(1, abs=4 * ULP)
    assert np.sum(weights * nodes) == pytest.approx(1 / 2, abs=4 * ULP)


@pytest.mark.parametrize("cells", [1000, 30_000])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_many_nodes_integrate_an_oscillation(rule, cells, level):
    nodes, weights = rule(cells, level)
    assert np.sum(weights * np.cos(20 * nodes)) == pytest.approx(np.sin(20) / 20, abs=3e-5)

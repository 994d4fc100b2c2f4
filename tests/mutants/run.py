"""Breaks the exporter and the client's job and pages on purpose, one place at a time; a test has to notice.

python tests/mutants/run.py [WORD …]

With words, only the mutants that have one of them in their name. Each mutant is a copy of the package with
one text replaced, put before the installed one on the path. The run fails when a mutant survives, or when the
text that it replaces is no longer there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import of_the_gallery
import of_the_input
import of_the_job
from mutant import Mutant

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "saliency_exporter": ROOT / "exporter" / "saliency_exporter",
    "saliency_client": ROOT / "client" / "saliency_client",
}
TESTS = ROOT / "tests"


MUTANTS = (
    Mutant(
        "Grad-CAM weighs by sums",
        "methods/grad_cam.py",
        "mean_over_places(features.gradients)",
        "features.gradients",
        "test_cams.py::test_a_cam_is_that_of_numpy_from_the_models_own_tape",
    ),
    Mutant(
        "HiResCAM loses what speaks against the class",
        "methods/hires_cam.py",
        "features.gradients * features.values",
        "tf.nn.relu(features.gradients) * features.values",
        "test_cams.py::test_a_cam_is_that_of_numpy_from_the_models_own_tape",
    ),
    Mutant(
        "LayerCAM keeps negative gradients",
        "methods/layer_cam.py",
        "tf.nn.relu(features.gradients)",
        "features.gradients",
        "test_cams.py::test_a_cam_is_that_of_numpy_from_the_models_own_tape",
    ),
    Mutant(
        "Grad-CAM++ forgets the third derivative",
        "methods/grad_cam_plus_plus.py",
        "2.0 + gradients * total",
        "2.0 + 0.0 * total",
        "test_cams.py::test_a_cam_is_that_of_numpy_from_the_models_own_tape",
    ),
    Mutant(
        "guided Grad-CAM takes the guided signal for the cam as well",
        "methods/guided_grad_cam.py",
        "tf.nn.relu(cam)",
        "cam",
        "test_cams.py::test_guided_grad_cam_is_the_product_of_its_parts",
    ),
    Mutant(
        "a cam is enlarged from its corners",
        "methods/enlarge.py",
        "(np.arange(size) + 0.5) * cells / size - 0.5",
        "np.arange(size) * (cells - 1) / (size - 1)",
        "test_cams.py::test_saliency_is_the_cam_rectified_and_enlarged_as_tensorflow_resizes_pictures",
    ),
    Mutant(
        "folding does not know the feature layer",
        "graph/forward_graph.py",
        "return (self.scores,) if self.features is None else (self.scores, self.features.tensor)",
        "return (self.scores,)",
        "test_feature_layers.py::test_folding_leaves_the_values_of_the_layer",
    ),
    Mutant(
        "a way around the feature layer is overlooked",
        "graph/feature_layers.py",
        "if open_until <= number and",
        "if",
        "test_feature_layers.py::test_none_where_branches_meet_behind_the_places_but_one_can_be_named",
    ),
    Mutant(
        "tokens without a gradient are taken",
        "graph/feature_layers.py",
        "return list(layers[: last + 1])",
        "return list(layers)",
        "test_feature_layers.py::test_where_a_class_token_alone_is_read_the_layer_before_the_last_attention_is_the_last",
    ),
    Mutant(
        "the class token is in the grid",
        "graph/feature_layers.py",
        "found[name] = min(offset, others)",
        "found[name] = 0",
        "test_feature_layers.py::test_tokens_lie_in_a_grid_beside_others",
    ),
    Mutant(
        "an author's gradient is dropped",
        "graph/replay.py",
        "own = self.graph.own_gradients.get(key_of(node)) if is_gate(node) else None",
        "own = None",
        "test_own_gradients.py::test_an_op_keeps_the_gradient_that_its_author_gave_it",
    ),
    Mutant(
        "a swish with another gradient loses it",
        "graph/own_gradients.py",
        "return bool(np.allclose(found, expected, rtol=0, atol=32 * unit_roundoff(dtype)))",
        "return True",
        "test_own_gradients.py::test_a_swish_with_another_gradient_keeps_it",
    ),
    Mutant(
        "the traced gradient is not held to the model's own",
        "version/agreement.py",
        "if compared and not differences[worst := int(kind(differences))] <= bound:",
        "if False:",
        "test_agreement.py::test_what_tracing_alone_loses_is_seen",
    ),
    Mutant(
        "a model of whole numbers keeps its cast",
        "graph/integer_input.py",
        "    if not is_cut:",
        "    if True:",
        "test_integer_input.py::test_a_model_on_whole_numbers_is_cut_at_its_cast_to_floats",
    ),
    Mutant(
        "ReLU6 passes above its bound",
        "rules/guided.py",
        "if bounds == (0, 6):\n        return tf.raw_ops.Relu6Grad(",
        "if bounds == (0, 6):\n        return tf.raw_ops.ReluGrad(",
        "test_activations.py::test_the_guided_rule_of_one_unit",
    ),
    Mutant(
        "a ReLU of another upper bound passes above it",
        "rules/guided.py",
        "passing &= x < tf.cast(activation.upper, x.dtype)",
        "pass",
        "test_activations.py::test_the_guided_rule_of_one_unit",
    ),
    Mutant(
        "the incoming signal may be negative",
        "rules/guided.py",
        "signal = tf.nn.relu(dy)",
        "signal = dy",
        "test_gradients.py::test_guided_equals_the_backward_pass_written_out_with_both_masks",
    ),
    Mutant(
        "the forward mask is gone",
        "rules/guided.py",
        "return tf.cast(_where_passing(activation, told_by, tf.cast(signal, told_by.dtype)), x.dtype)",
        "return tf.cast(signal, x.dtype)",
        "test_activations.py::test_the_guided_rule_of_one_unit",
    ),
    Mutant(
        "sigma is absolute",
        "methods/smooth.py",
        "sigma = noise_level * input_range(x)",
        "sigma = noise_level * tf.ones_like(input_range(x))",
        "test_smooth.py::test_a_cubic_score_has_the_mean_gradient_3x2_plus_3sigma2",
    ),
    Mutant(
        "the range is that of the whole batch",
        "methods/smooth.py",
        "return tf.reduce_max(x, axes) - tf.reduce_min(x, axes)",
        "return (tf.reduce_max(x) - tf.reduce_min(x)) * tf.ones_like(x[:, 0, 0, 0])",
        "test_smooth.py::test_sigma_is_a_fraction_of_the_range_of_each_example",
    ),
    Mutant(
        "the variance is divided by n",
        "methods/accuracy.py",
        "return tf.where(n > 1, tf.cast(n, tf.float32) - 1.0, np.nan)",
        "return tf.where(n > 1, tf.cast(n, tf.float32), np.nan)",
        "test_smooth.py::test_mean_variance_and_error_equal_those_of_the_samples_taken_one_by_one",
    ),
    Mutant(
        "every sample draws the same noise",
        "methods/noise.py",
        "tf.broadcast_to(sample, tf.shape(seed))",
        "tf.zeros_like(seed)",
        "test_smooth.py::test_the_noise_is_standard_normal_and_independent",
    ),
    Mutant(
        "the batch shares the largest number of samples",
        "methods/sampling.py",
        "samples < count[:, tf.newaxis]), *state",
        "samples < tf.reduce_max(count) + 0 * count[:, tf.newaxis]), *state",
        "test_smooth.py::test_examples_of_one_batch_have_parameters_of_their_own",
    ),
    Mutant(
        "samples beyond those asked for count",
        "methods/accuracy.py",
        "deviations = (maps - first[:, tf.newaxis]) * tf.reshape(weight, per_sample)",
        "deviations = maps - first[:, tf.newaxis]",
        "test_smooth.py::test_an_image_alone_takes_several_samples_in_a_step_but_only_those_asked_for",
    ),
    Mutant(
        "the noise stays in the norm of the mean",
        "methods/accuracy.py",
        "left = (squared_norm if signal is None else _squared_norm(signal)) - squared_error",
        "left = squared_norm if signal is None else _squared_norm(signal)",
        "test_accuracy.py::test_what_is_reported_is_the_distance_to_a_known_mean",
    ),
    Mutant(
        "pairs are taken for independent samples",
        "methods/smooth.py",
        "return mean, squares, differences + squared_differences(maps, step.active)",
        "return mean, squares, differences",
        "test_smooth.py::test_mean_variance_and_error_equal_those_of_the_samples_taken_one_by_one",
    ),
    Mutant(
        "both of a pair have the same noise",
        "methods/noise.py",
        "1.0 - 2.0 * tf.cast(sample % 2, tf.float32)",
        "1.0 + 0.0 * tf.cast(sample % 2, tf.float32)",
        "test_smooth.py::test_mean_variance_and_error_equal_those_of_the_samples_taken_one_by_one",
    ),
    Mutant(
        "an example that is done goes on",
        "methods/sampling.py",
        "return tf.where(reached, so_far, count)",
        "return tf.where(tf.reduce_all(reached), so_far, count)",
        "test_accuracy.py::test_an_example_that_is_done_is_bit_for_bit_what_as_many_samples_give",
    ),
    Mutant(
        "the level of a map is in its error",
        "methods/accuracy.py",
        "return maps - tf.reduce_mean(maps, list(range(1, maps.shape.rank)), keepdims=True)",
        "return maps",
        "test_accuracy.py::test_a_level_that_all_places_share_is_no_part_of_the_error_of_contrast",
    ),
    Mutant(
        "the noise leaves half of the circle out",
        "methods/noise.py",
        "sign = 1.0 - tf.cast(bits & 2, tf.float32)",
        "sign = 1.0 + 0.0 * tf.cast(bits & 2, tf.float32)",
        "test_smooth.py::test_the_noise_comes_in_pairs_on_circles_of_uniform_angle",
    ),
    Mutant(
        "the sizes chosen to run without XLA are compiled, and the others not",
        "contract/build.py",
        "lambda: plain(*inputs), lambda: xla(*inputs)",
        "lambda: xla(*inputs), lambda: plain(*inputs)",
        "test_compile_choice.py::test_the_chosen_sizes_run_without_xla_and_the_others_with_it",
    ),
    Mutant(
        "the parameters are those of the neighbour",
        "contract/slices.py",
        "outputs = core(*(tf.gather(value, rows) for value in inputs.values()))",
        "images, *rest = inputs.values()\n"
        "        outputs = core(tf.gather(images, rows), *(tf.roll(tf.gather(v, rows), 1, 0) for v in rest))",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "every slice is the first one",
        "contract/slices.py",
        "rows = tf.minimum(start + tf.range(padded), batch - 1)",
        "rows = tf.minimum(tf.range(padded), batch - 1)",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "a thousandth of the padding is mixed into every image",
        "contract/build.py",
        "return self.preprocessing.function(tf.cast(images, tf.float32))",
        "x = self.preprocessing.function(tf.cast(images, tf.float32))\n"
        "        return x + 1e-3 * (x[-1:] - x)",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "a thousandth of the neighbour's map leaks",
        "contract/build.py",
        "kind.output: explained.map,",
        "kind.output: explained.map + 1e-3 * (tf.roll(explained.map, 1, 0) - explained.map),",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "the class predicted for the first image is everybody's",
        "methods/model.py",
        "return tf.where(class_index < 0, predicted, class_index)",
        "return tf.where(class_index < 0, predicted[:1], class_index)",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "the seed of the first image is everybody's",
        "methods/smooth.py",
        "for values in (seed, first_sample, x))",
        "for values in (seed[:1] + 0 * seed, first_sample, x))",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "the samples are of the class of the first image",
        "methods/smooth.py",
        "rows = [as_rows(values, at_once) for values in given]",
        "rows = [as_rows(values[:1] + 0 * values, at_once) for values in given]",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "a sample's noise depends on its place in its step",
        "methods/smooth.py",
        "opposite_pairs(row_first + step.sample)",
        "opposite_pairs(row_first + step.sample - step.first)",
        "test_independence.py::test_an_answer_is_what_it_is_alone",
    ),
    Mutant(
        "the noise depends on the position in the batch",
        "methods/noise.py",
        "keys = tf.stack([seed, tf.broadcast_to(sample, tf.shape(seed))], axis=1)",
        "keys = tf.stack([seed + tf.range(tf.size(seed)), tf.broadcast_to(sample, tf.shape(seed))], axis=1)",
        "test_smooth.py::test_the_bits_of_the_noise_are_those_of_seed_and_sample_at_every_place_in_every_batch",
    ),
    Mutant(
        "the noise is of the generator that the device prefers",
        "methods/noise.py",
        'None, None, tf.int32, alg="philox")',
        'None, None, tf.int32, alg="threefry")',
        "test_smooth.py::test_the_bits_of_the_noise_are_those_of_seed_and_sample_at_every_place_in_every_batch",
    ),
    Mutant(
        "the logarithm of the noise loses its last bits",
        "methods/noise.py",
        "radius = tf.sqrt(-2.0 * tf.math.log(_open_unit(bits[:, 0])))",
        "radius = tf.sqrt(-2.0 * (tf.math.log(_open_unit(bits[:, 0]) * 2.0) - math.log(2.0)))",
        "test_smooth.py::test_compiled_and_uncompiled_noise_agree_to_float32_rounding_also_with_the_theory",
    ),
    Mutant(
        "verify takes any saliency",
        "version/verify.py",
        "return max(_map_errors(saliency, of_the_map)) <= SALIENCY_TOLERANCE",
        "return True",
        "test_verify.py::test_an_answer_to_a_warmup_record_that_differs_is_found",
    ),
    Mutant(
        "the slower way is chosen",
        "contract/compile_choice.py",
        "return self.xla_ms < _WORTH_COMPILING * self.none_ms",
        "return self.xla_ms >= _WORTH_COMPILING * self.none_ms",
        "test_compile_choice.py::test_xla_is_kept_only_where_it_is_worth_compiling",
    ),
    Mutant(
        "the given class is ignored",
        "methods/model.py",
        "return tf.where(class_index < 0, predicted, class_index)",
        "return predicted + 0 * class_index",
        "test_gradients.py::test_gradients_equal_central_differences_of_the_logit_in_float64",
    ),
    Mutant(
        "the default class is 0",
        "methods/model.py",
        "return tf.where(class_index < 0, predicted, class_index)",
        "return tf.maximum(class_index, 0 * predicted)",
        "test_gradients.py::test_without_a_class_the_predicted_one_is_explained",
    ),
    Mutant(
        "padding is not sliced off",
        "contract/slices.py",
        "items = [tf.strided_slice(outputs[name], *bounds) for name in names]",
        "items = [outputs[name] for name in names]",
        "test_signature_functions.py::test_changing_values_never_compiles_again_and_shapes_are_the_batch_sizes",
    ),
    Mutant(
        "slices start at the wrong row",
        "contract/slices.py",
        "start = index * largest",
        "start = index * (largest - 1)",
        "test_signature_functions.py::test_changing_values_never_compiles_again_and_shapes_are_the_batch_sizes",
    ),
    Mutant(
        "a final softmax is explained",
        "graph/head.py",
        "if len(known) == len(ends) and len(kinds) == 1:",
        "if False:",
        "test_signature_functions.py::test_a_model_that_ends_in_softmax_is_explained_by_its_logits_unless_told_otherwise",
    ),
    Mutant(
        "a rectifier inside a gate is one of its own",
        "graph/activations/find.py",
        "    for node in reversed(analysis.graph.nodes):",
        "    for node in analysis.graph.nodes:",
        "test_activations.py::test_mobilenet_v3_has_no_rectifier_inside_its_gates",
    ),
    Mutant(
        "a smooth rectifier's own derivative is left out",
        "rules/guided.py",
        "if not activation.passes_unchanged:",
        "if False:",
        "test_random_architectures.py::"
        "test_signatures_of_a_few_random_architectures_equal_the_passes_written_out",
    ),
    Mutant(
        "an unknown activation passes silently",
        "methods/guided.py",
        "if coverage.uncovered:",
        "if False:",
        "test_activations.py::test_an_uncovered_activation_is_refused_by_name",
    ),
    Mutant(
        "a scale that others read is folded",
        "graph/folding.py",
        "or readers[source] != 1 or not _channels_last(before)",
        "or not _channels_last(before)",
        "test_folding.py::test_an_output_that_something_else_reads_is_left_alone",
    ),
    Mutant(
        "maps are not compared by verify",
        "version/verify.py",
        "if not error <= bound:",
        "if False:",
        "test_verify.py::test_maps_that_differ_by_5_percent_and_logits_that_differ_are_found",
    ),
    Mutant(
        "zeros become SAME padding whatever they are",
        "graph/folding.py",
        "zeros == _same_padding(same, known[0], known[1], (taps[0], taps[1]))",
        "zeros",
        "test_folding.py::test_zeros_of_same_padding_become_the_convolutions_own",
    ),
    Mutant(
        "a sample beyond the last is another one",
        "methods/sampling.py",
        "tf.minimum(samples, count[:, tf.newaxis] - 1)",
        "samples + 0 * count[:, tf.newaxis]",
        "test_smooth.py::test_samples_beyond_those_asked_for_leave_no_nan_behind",
    ),
    Mutant(
        "noisy copies choose classes of their own",
        "methods/smooth.py",
        "given = [class_index, *(",
        "given = [parameters[CLASS_INDEX], *(",
        "test_smooth_over.py::test_the_noise_changes_the_class_of_some_copies_and_the_explained_one_stays",
    ),
    Mutant(
        "what is smoothed has the parameters of the first image",
        "methods/smooth.py",
        "*(parameters[name] for name in names)]",
        "*(parameters[name][:1] + 0 * parameters[name] for name in names)]",
        "test_smooth_over.py::test_without_noise_it_is_the_method_with_the_parameters_of_each_example",
    ),
    Mutant(
        "a smoothed method is replayed without its replacements",
        "methods/smooth.py",
        "        explain=explain,\n        parameters=(*taken, *_PARAMETERS),",
        "        explain=explain,\n        replacements=METHOD.replacements,\n"
        "        parameters=(*taken, *_PARAMETERS),",
        "test_smooth_over.py::test_smooth_guided_is_the_mean_of_the_guided_passes_written_out",
    ),
    Mutant(
        "the gradient at the gray image is that at the first end of a cell",
        "methods/quadrature.py",
        "(2.0 / 3.0) - tf.cast(place == 1, tf.float64) / 6.0",
        "(1.0 / 2.0)",
        "test_quadrature.py::test_what_is_linear_is_integrated_exactly",
    ),
    Mutant(
        "a node is in the middle of what squares are between, and not of the squares",
        "methods/quadrature.py",
        "middle = cell * cell + width * (part + 0.5) / of_parts",
        "middle = tf.square(cell + (part + 0.5) / of_parts)",
        "test_quadrature.py::test_what_is_linear_is_integrated_exactly",
    ),
    Mutant(
        "a way ends as soon as its sum is right",
        "methods/integrated_gradients.py",
        "& complete & still",
        "& complete",
        "test_integrated_gradients.py::test_a_sum_that_is_right_by_accident_does_not_end_the_way",
    ),
    Mutant(
        "a way ends as soon as its map stands still",
        "methods/integrated_gradients.py",
        "& complete & still",
        "& still",
        "test_integrated_gradients.py::test_what_two_levels_both_miss_is_found_by_the_sum",
    ),
    Mutant(
        "nodes beyond the end of a level count for an example that is done with it",
        "methods/integrated_gradients.py",
        "total = at_end + tf.where(tf.reshape(done, per_example), 0.0, beyond)",
        "total = at_end + beyond",
        "test_integrated_gradients.py::test_a_level_that_ends_within_a_step_of_the_loop_is_a_level_for_all_that",
    ),
    Mutant(
        "the way begins at a level of the model input",
        "methods/integrated_gradients.py",
        'model.gray(parameters["baseline"])',
        'tf.ones_like(x) * tf.reshape(parameters["baseline"], [-1] + [1] * (x.shape.rank - 1))',
        "test_integrated_gradients.py::"
        "test_it_is_a_loop_over_the_original_model_and_the_baseline_is_in_pixels",
    ),
    Mutant(
        "the class of the way is that of its beginning",
        "methods/integrated_gradients.py",
        "scores, start_scores = tf.split(both, 2)",
        "start_scores, scores = tf.split(both, 2)",
        "test_integrated_gradients.py::test_the_class_of_all_the_way_is_that_of_the_image",
    ),
    Mutant(
        "steps beyond those asked for count",
        "methods/integrated_gradients.py",
        "asked, ends = each < steps[:, tf.newaxis], level[:, tf.newaxis]",
        "asked, ends = each >= 0, level[:, tf.newaxis]",
        "test_integrated_gradients.py::test_examples_of_one_batch_have_steps_and_baselines_of_their_own",
    ),
    Mutant(
        "completeness is over the score",
        "methods/integrated_gradients.py",
        "tf.maximum(tf.abs(gain), _TINY)",
        "tf.maximum(tf.abs(gain + start_score), _TINY)",
        "test_integrated_gradients.py::test_completeness_error_is_what_the_other_outputs_say",
    ),
    Mutant(
        "gradient times the size of the input",
        "methods/gradient_x_input.py",
        "x * gradients",
        "tf.abs(x) * gradients",
        "test_gradient_x_input.py::"
        "test_of_a_linear_score_without_a_bias_its_sum_is_the_score_and_a_bias_is_not_in_it",
    ),
    Mutant(
        "what is not compiled is inlined",
        "contract/build.py",
        'experimental_attributes={"_noinline": True}',
        "experimental_attributes=None",
        "test_saved_model.py::test_uncompiled_max_pooling_always_takes_onednns_gradient",
    ),
    Mutant(
        "minimal filtering goes back by the kernel as it is",
        "rules/lowering/winograd.py",
        "_TURNED = [3, 1, 2, 0]",
        "_TURNED = [0, 1, 2, 3]",
        "../lowering/test_winograd.py::test_value_and_input_gradient_are_those_of_the_convolution",
    ),
    Mutant(
        "minimal filtering rounds its transform of the kernel",
        "rules/lowering/winograd.py",
        "transformed = _transformed(_G, tf.reshape(kernel, [9, channels, filters]))",
        "transformed = tf.round(_transformed(_G, tf.reshape(kernel, [9, channels, filters])) * 1e5) / 1e5",
        "../lowering/test_winograd.py::test_float32_is_rounded_as_little_as_by_a_direct_convolution",
    ),
    Mutant(
        "the phases of a strided gradient are put together in another order",
        "graph/phases.py",
        "tf.reshape(phases, apart), [0, 1, 3, 2, 4])",
        "tf.reshape(phases, apart), [0, 1, 2, 3, 4])",
        "../lowering/test_strided.py::test_value_and_input_gradient_are_those_of_the_convolution",
    ),
    Mutant(
        "a strided first layer has no rule of its own, uncompiled",
        "rules/lowering/__init__.py",
        "                functools.partial(strided_uncompiled, most_channels=worth.strided_channels),\n",
        "",
        "../lowering/test_lowering_rules.py::test_uncompiled_a_strided_first_layer_has_a_rule_of_its_own",
    ),
    Mutant(
        "a strided 1×1 gradient goes to the last pixel of each stride",
        "rules/lowering/pointwise.py",
        "[(0, 0), (0, 0), (0, down - 1), (0, 0), (0, right - 1), (0, 0)]",
        "[(0, 0), (0, 0), (down - 1, 0), (0, 0), (right - 1, 0), (0, 0)]",
        "../lowering/test_pointwise.py::test_uncompiled_value_and_input_gradient_are_those_of_the_convolution",
    ),
    Mutant(
        "a bias behind a grouped convolution stays what Eigen's rules fuse",
        "graph/fusions.py",
        "if found is None or found.name not in around.grouped:",
        "if found is None or found.name in around.grouped:",
        "test_fusions.py::test_a_bias_is_rewritten_behind_a_grouped_convolution_and_nowhere_else",
    ),
    Mutant(
        "a sum before a leaky ReLU is made part of the convolution, which loses the slope",
        "graph/fusions.py",
        'return "LeakyRelu" in kinds or (',
        "return (",
        "test_fusions.py::test_a_sum_is_kept_from_a_convolution_where_its_fusion_is_wrong_or_fails",
    ),
    Mutant(
        "the way back through a grouped convolution reads the groups of another order",
        "graph/portable.py",
        "tf.transpose(tf.reverse(apart, [0]), [0, 3, 2, 1])",
        "tf.transpose(tf.reverse(apart, [0]), [0, 2, 3, 1])",
        "test_portable.py::test_value_and_input_gradient_are_those_of_the_convolution",
    ),
    Mutant(
        "what is not compiled keeps ops that a set of kernels lacks",
        "graph/replay.py",
        "fallbacks = (resizing_rules if compiled else portable_rules)(graph.producer)",
        "fallbacks = resizing_rules(graph.producer) if compiled else {}",
        "test_portable.py::test_a_replay_has_a_gradient_of_its_own_unless_it_is_compiled",
    ),
    Mutant(
        "what is not compiled is not lowered",
        "contract/settings.py",
        "        if not self.lowering:\n",
        "        if not self.lowering or not compiled:\n",
        "test_saved_model.py::test_uncompiled_on_a_cpu_the_way_back_through_1x1_is_a_product_and_the_way_"
        "forward_stays_fused",
    ),
    Mutant(
        "guided reads what a ReLU reads, so no convolution computes both",
        "rules/guided.py",
        'told_by = y if activation.kind in ("relu", "relu6") else x',
        "told_by = x",
        "test_saved_model.py::test_uncompiled_on_a_cpu_the_way_back_through_1x1_is_a_product_and_the_way_"
        "forward_stays_fused",
    ),
    Mutant(
        "The memory of a call is taken anew for the next one",
        "runtime/quiet.py",
        'os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")',
        'os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "false")',
        "test_imports.py::test_a_call_takes_the_memory_of_the_one_before",
    ),
    Mutant(
        "a parameter may be above its bound",
        "contract/checks.py",
        "inside &= value <= tf.cast(bounds.high, value.dtype)",
        "pass",
        "test_exported_signatures.py::test_a_bad_parameter_is_an_invalid_argument_with_value_and_bound",
    ),
    Mutant(
        "parameters have one another's default",
        "contract/build.py",
        "values = [PREDICTED_CLASS, *(default_of(p, self.settings.max_samples) for p in method.parameters)]",
        "values = [*(default_of(p, self.settings.max_samples) for p in method.parameters), PREDICTED_CLASS]",
        "test_exported_signatures.py::test_defaults_are_in_the_signature_def",
    ),
    Mutant(
        "shares of the score lose their sign before they are added",
        "methods/kinds.py",
        "tf.abs(tf.reduce_sum(with_channel_axis(shares, sizes), axis=-1))",
        "tf.reduce_sum(tf.abs(with_channel_axis(shares, sizes)), axis=-1)",
        "test_declarations.py::test_saliency_in_numpy_is_that_in_tensorflow",
    ),
    Mutant(
        "what clients ask for by default is not warmed up",
        "version/warmup_requests.py",
        "sets = [small, sorted({*small, own_map})]",
        "sets = [sorted({*small, own_map})]",
        "test_saved_model.py::test_warmup_covers_each_signature_batch_size_and_set_of_outputs_that_clients_ask_for",
    ),
    Mutant(
        "patches do not reach beyond the image",
        "methods/occlusion.py",
        "np.arange(patches.stride - patches.patch, size, patches.stride, dtype=np.int32)",
        "np.arange(0, size + patches.patch - patches.stride, patches.stride, dtype=np.int32)",
        "test_occlusion.py::test_the_shares_of_an_additive_model_add_up_to_the_whole_drop",
    ),
    Mutant(
        "a patch that is cut counts as a whole one",
        "methods/occlusion.py",
        "np.minimum(first + along.patch, size) - np.maximum(first, 0)",
        "np.full(len(first), along.patch)",
        "test_occlusion.py::test_where_pixels_do_not_differ_each_gets_its_own_drop",
    ),
    Mutant(
        "a patch hides with the first image's gray",
        "methods/occlusion.py",
        "tf.where(mask, gray, values)",
        "tf.where(mask, gray[:1], values)",
        "test_occlusion.py::test_occlusion_equals_a_loop_over_the_original_model",
    ),
    Mutant(
        "patches are hidden in model input of the gray level itself",
        "methods/occlusion.py",
        'model.gray(parameters["baseline"])',
        'tf.reshape(parameters["baseline"], [-1] + [1] * len(shape)) + 0 * x',
        "test_occlusion.py::test_the_baseline_is_a_gray_level_of_the_images_and_not_of_the_model_input",
    ),
    Mutant(
        "a stride that does not divide the patch is taken",
        "methods/occlusion.py",
        "if patch % stride:",
        "if False:",
        "test_occlusion.py::test_a_stride_that_does_not_divide_the_patch_is_refused_with_one_that_does",
    ),
    Mutant(
        "what is larger than the image is taken",
        "methods/hiding.py",
        "if side is not None and side > least:",
        "if False:",
        "test_rise.py::test_a_grid_that_is_finer_than_the_image_is_refused_with_the_sizes",
    ),
    Mutant(
        "masks are not shifted",
        "methods/rise.py",
        "shift[:, tf.newaxis] + tf.range(sizes[axis])",
        "0 * shift[:, tf.newaxis] + tf.range(sizes[axis])",
        "test_rise.py::test_a_mask_is_its_bits_enlarged_and_shifted",
    ),
    Mutant(
        "the importance is not divided by the mean mask",
        "methods/rise.py",
        "batch_dims=1) / keeps",
        "batch_dims=1)",
        "test_rise.py::test_rise_equals_a_loop_over_the_original_model",
    ),
    Mutant(
        "masks weigh scores instead of probabilities",
        "methods/rise.py",
        "answers = model.probabilities(tf.ensure_shape(answers, (None, scores.shape[-1])))",
        "answers = tf.ensure_shape(answers, (None, scores.shape[-1]))",
        "test_rise.py::test_rise_equals_a_loop_over_the_original_model",
    ),
    Mutant(
        "all examples keep as much as the first",
        "methods/rise.py",
        "uniform < keep[:, tf.newaxis]",
        "uniform < keep[0]",
        "test_rise.py::test_rise_equals_a_loop_over_the_original_model",
    ),
    Mutant(
        "a default may lie outside of its bound",
        "contract/checks.py",
        "return parameter.default if high is None else min(parameter.default, high)",
        "return parameter.default",
        "test_rise.py::test_there_may_be_four_times_as_many_masks_as_samples_and_the_default_is_within_the_bound",
    ),
    Mutant(
        "REST lets an input be missing",
        "serving/rest_json.py",
        "        if name not in inputs:\n            raise invalid",
        "        if name not in inputs:\n            continue\n            raise invalid",
        "test_rest_json.py::test_every_input_has_to_be_there",
    ),
    Mutant(
        "REST takes rows and columns at once",
        "serving/rest_json.py",
        'if "instances" in document and "inputs" in document:',
        "if False:",
        "test_rest_json.py::test_the_words_of_a_refusal_are_those_of_json_tensor",
    ),
    Mutant(
        "REST names a single output",
        "serving/rest_json.py",
        'text = _rows(by_name) if format_ == "row" else _columns(by_name)',
        "text = _columns(by_name)",
        "test_rest_json.py::test_one_output_goes_without_its_name",
    ),
    Mutant(
        "REST refuses what follows an object",
        "serving/rest_json.py",
        "document, _ = json.JSONDecoder().raw_decode(text)",
        "document = json.loads(text)",
        "test_rest_json.py::test_what_follows_the_object_is_not_looked_at",
    ),
    Mutant(
        "REST quotes all of a large value",
        "serving/rest_json.py",
        "_DEBUG_BYTES = 256",
        "_DEBUG_BYTES = 1 << 20",
        "test_rest_json.py::test_a_refusal_quotes_256_bytes_of_a_large_value",
    ),
    *of_the_input.MUTANTS,
    *of_the_job.MUTANTS,
    *of_the_gallery.MUTANTS,
)


def test_file(name: str) -> Path:
    """The one file of unit, integration or browser tests that has this name."""
    kinds = ("unit", "integration", "browser")
    (file,) = [path for kind in kinds for path in (TESTS / kind).rglob(Path(name).name)]
    return file


def survives(mutant: Mutant) -> bool:
    """Whether the named test passes with the mutant in place."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / mutant.package
        shutil.copytree(PACKAGES[mutant.package], copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutant.file
        text = path.read_text(encoding="utf-8")
        if mutant.old not in text:
            sys.exit(f"{mutant.name}: {mutant.file} no longer holds {mutant.old!r}")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        file, _, test = mutant.test.partition("::")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                # What notices has to run at every change.
                "-m",
                "not slow",
                f"{test_file(file)}::{test}",
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": directory},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    # A test that is skipped, as without a browser, notices nothing and passes nothing.
    if done.returncode not in (0, 1) or not re.search(r"\d+ (passed|failed)", done.stdout):
        sys.exit(f"{mutant.name}: the test did not run\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def main() -> None:
    """Run every mutant, or those that are named; exit with 1 if one survives."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    if not chosen:
        sys.exit(f"no mutant has {' or '.join(words)} in its name")
    survivors = 0
    for mutant in chosen:
        alive = survives(mutant)
        survivors += alive
        print(
            f"{'SURVIVED' if alive else 'noticed '}  {mutant.name}  ({mutant.test.split('::')[0]})",
            flush=True,
        )
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()

"""experiments.plan.hlo and .convolutions: compiled programs are parsed correctly.

The excerpts are of programs that were compiled for an H100 and for a v5e by jax 0.10.2, without what is not read.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.plan.convolutions import convolutions
from experiments.plan.hlo import collectives, exchanged_bytes, parse

DILATED = """HloModule jit_step, is_scheduled=true

%fused_convert.6 (param_0: bf16[1024,8,8,256], param_1: f32[256]) -> f32[1024,19,19,256] {
  %param_0 = bf16[1024,8,8,256]{3,2,1,0} parameter(0), metadata={scheduling_name="param_0"}
  %constant_355_6 = bf16[] constant(0)
  %pad.19.1 = bf16[1024,19,19,256]{3,2,1,0} pad(%param_0, %constant_355_6), padding=0_0_0x2_2_1x2_2_1x0_0_0
  ROOT %convert.155.1 = f32[1024,19,19,256]{3,2,1,0} convert(%pad.19.1), metadata={op_name="jit(step)/conv(a, b)"}
}

%fused_two (param_0: f32[1024,8,8,256]) -> (f32[1024,8,8,256], f32[1024,19,19,256]) {
  %param_0 = f32[1024,8,8,256]{3,2,1,0} parameter(0)
  %constant_1 = f32[] constant(0)
  %negate.1 = f32[1024,8,8,256]{3,2,1,0} negate(%param_0)
  %pad.2 = f32[1024,19,19,256]{3,2,1,0} pad(%param_0, %constant_1), padding=0_0_0x2_2_1x2_2_1x0_0_0
  ROOT %tuple = (f32[1024,8,8,256]{3,2,1,0}, /*index=1*/f32[1024,19,19,256]{3,2,1,0}) tuple(%negate.1, %pad.2)
}

%fused_edges (param_0: f32[1024,16,16,256]) -> f32[1024,19,19,256] {
  %param_0 = f32[1024,16,16,256]{3,2,1,0} parameter(0)
  %constant_2 = f32[] constant(0)
  ROOT %pad.3 = f32[1024,19,19,256]{3,2,1,0} pad(%param_0, %constant_2), padding=0_0x1_2x1_2x0_0
}

%fused_transpose (param_0: f32[1024,19,19,256]) -> f32[1024,19,19,256] {
  %param_0 = f32[1024,19,19,256]{3,2,1,0} parameter(0)
  ROOT %copy.1 = f32[1024,19,19,256]{3,2,1,0} copy(%param_0)
}

%part (p.0: f32[1024,19,19,256], p.1: f32[128,4,4,256]) -> (f32[1024,16,16,128], u8[0]) {
  %p.0 = f32[1024,19,19,256]{3,2,1,0} parameter(0)
  %p.1 = f32[128,4,4,256]{3,2,1,0} parameter(1)
  ROOT %conv.5 = (f32[1024,16,16,128]{3,2,1,0}, u8[0]{0}) custom-call(%p.0, %p.1), <4x4>
}

ENTRY %main.159 (image: bf16[1024,8,8,256], wide: f32[1024,16,16,256], w: f32[128,4,4,256]) -> f32[1024,16,16,128] {
  %image = bf16[1024,8,8,256]{3,2,1,0} parameter(0), sharding={replicated}
  %wide = f32[1024,16,16,256]{3,2,1,0} parameter(1)
  %w = f32[128,4,4,256]{3,2,1,0} parameter(2)
  %single = f32[1024,19,19,256]{3,2,1,0} fusion(%image, %w), kind=kLoop, calls=%fused_convert.6
  %conv.1 = (f32[1024,16,16,128]{3,2,1,0}, u8[0]{0}) custom-call(%single, %w), <4x4>
  %two = (f32[1024,8,8,256]{3,2,1,0}, f32[1024,19,19,256]{3,2,1,0}) fusion(%image), kind=kLoop, calls=%fused_two
  %second = f32[1024,19,19,256]{3,2,1,0} get-tuple-element(%two), index=1
  %moved = f32[1024,19,19,256]{3,2,1,0} fusion(%second), kind=kInput, calls=%fused_transpose
  %conv.2 = (f32[1024,16,16,128]{3,2,1,0}, u8[0]{0}) custom-call(%moved, %w), <4x4>
  %first = f32[1024,8,8,256]{3,2,1,0} get-tuple-element(%two), index=0
  %conv.3 = (f32[1024,5,5,128]{3,2,1,0}, u8[0]{0}) custom-call(%first, %w), <4x4>
  %edges = f32[1024,19,19,256]{3,2,1,0} fusion(%wide), kind=kLoop, calls=%fused_edges
  %conv.4 = (f32[1024,16,16,128]{3,2,1,0}, u8[0]{0}) custom-call(%edges, %w), <4x4>
  %last = (f32[1024,16,16,128]{3,2,1,0}, u8[0]{0}) call(%second, %w), to_apply=%part
  ROOT %result = f32[1024,16,16,128]{3,2,1,0} get-tuple-element(%conv.1), index=0
}
""".replace("<4x4>", 'window={size=4x4}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"')


def test_interior_padding_is_found_in_any_computation():
    # conv.1: in the fusion of its image, before a conversion. conv.2: in one of two arrays of a fusion, moved by
    # another fusion. conv.5: outside of its call. The image of conv.3 is the other array of the two; that of conv.4 is
    # padded at its edges only.
    found = convolutions(parse(DILATED), "cuda")
    assert found == {("dilated_forward", "float32", 1): 3, ("forward", "float32", 1): 2}


def only(text, platform):
    """The convolutions of a program with one line, whose operands are bfloat16 images."""
    lines = [
        "HloModule jit_f, is_scheduled=true",
        "ENTRY %main.1 (x: bf16[16,32,32,64], y: f32[64,3,3,64]) -> bf16[16,32,32,64] {",
        "  %x = bf16[16,32,32,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)",
        "  %y = f32[64,3,3,64]{3,2,1,0} parameter(1)",
        f"  {text}",
        "}",
    ]
    return list(convolutions(parse("\n".join(lines)), platform).elements())


@pytest.mark.parametrize(
    "target, more, expected",
    [
        ("convForward", "window={size=3x3 stride=2x2 pad=1_1x1_1}", ("forward", 1)),
        ("convForward", "window={size=4x4 pad=1_1x1_1 rhs_dilate=2x2}", ("forward", 1)),
        ("convForward", "window={size=4x4 pad=2_2x2_2 lhs_dilate=2x2}", ("dilated_forward", 1)),
        ("convForward", "window={size=3x3 pad=1_1x1_1}, feature_group_count=96", ("forward", 96)),
        ("convBiasActivationForward", "window={size=3x3 pad=1_1x1_1}", ("forward", 1)),
        ("convForwardGraph", "window={size=1x1}", ("forward", 1)),
        ("convBackwardInput", "window={size=4x4 stride=2x2 pad=1_1x1_1}", ("backward_input", 1)),
        ("convBackwardFilter", "window={size=3x3 pad=1_1x1_1}, feature_group_count=64", ("backward_filter", 64)),
    ],
)
def test_calls_of_cudnn_are_recognized_by_their_names(target, more, expected):
    # The result is float32, since cuDNN may accumulate in it; the dtype is that of the first operand.
    kind, groups = expected
    line = "%conv = (f32[16,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), "
    line += f'{more}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${target}"'
    assert only(line, "cuda") == [(kind, "bfloat16", groups)]


def test_other_calls_are_not_convolutions_on_a_gpu():
    for target in ("__cublas$lt$matmul", "__cudnn$norm", "__cudnn$fmhaSoftmax"):
        assert not only(f'%call = f32[16]{{0}} custom-call(%x, %y), custom_call_target="{target}"', "cuda")


def test_a_convolution_that_was_not_converted_to_a_call():
    line = "ROOT %c = bf16[16,32,32,64]{3,2,1,0} convolution(%x, %y), window={size=3x3}, dim_labels=b01f_01io->b01f"
    assert only(line, "cuda") == [("unfused", "bfloat16", 1)]


@pytest.mark.parametrize(
    "named, window, expected",
    [
        ("fprop", "size=3x3 pad=1_1x1_1", "forward"),
        ("fprop", "size=3x3 pad=2_1x2_1 lhs_dilate=2x2", "dilated_forward"),
        ("dgrad", "size=4x4 pad=2_2x2_2 lhs_dilate=2x2", "backward_input"),
        ("wgrad", "size=16x16 pad=0_1x0_1 rhs_dilate=2x2", "backward_filter"),
    ],
)
def test_a_fusion_that_cudnn_compiles_has_the_kind_of_its_convolution(named, window, expected):
    text = f"""HloModule jit_f

%conv_fusion (x.0: bf16[16,16,16,64], t.2: bf16[64,4,4,32]) -> bf16[16,32,32,32] {{
  %x.0 = bf16[16,16,16,64]{{3,2,1,0}} parameter(0)
  %t.2 = bf16[64,4,4,32]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[16,32,32,32]{{3,2,1,0}} convolution(%x.0, %t.2), window={{{window}}}, dim_labels=b01f_i01o->b01f, \
batch_group_count=4, convolution_kind={named}
}}

ENTRY %main (x: bf16[16,16,16,64], y: bf16[64,4,4,32]) -> bf16[16,32,32,32] {{
  %x = bf16[16,16,16,64]{{3,2,1,0}} parameter(0)
  %y = bf16[64,4,4,32]{{3,2,1,0}} parameter(1)
  ROOT %f = bf16[16,32,32,32]{{3,2,1,0}} fusion(%x, %y), kind=kCustom, calls=%conv_fusion, \
backend_config={{"fusion_backend_config":{{"kind":"__cudnn$fusion"}}}}
}}
"""
    assert convolutions(parse(text), "cuda") == {(expected, "bfloat16", 4): 1}


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ("window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", ("forward", 1)),
        ("window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", ("forward", 1)),
        ("window={size=1x1}, dim_labels=b01f_01io->b01f", ("forward", 1)),
        # A dilated kernel, not a weight gradient.
        ("window={size=3x3 pad=2_2x2_2 rhs_dilate=2x2}, dim_labels=b01f_01io->b01f", ("forward", 1)),
        ("window={size=4x4 pad=2_2x2_2 lhs_dilate=2x2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f",
         ("backward_input", 1)),
        ("window={size=3x3 pad=1_1x1_1 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f", ("backward_input", 1)),
        # Two taps with dilation 2, but not groups: the kernel is reversed.
        ("window={size=2x2 lhs_dilate=2x2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f", ("backward_input", 1)),
        ("window={size=32x32 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf", ("backward_filter", 1)),
        ("window={size=16x16 pad=1_1x1_1 rhs_dilate=2x2}, dim_labels=f01b_i01o->01bf", ("backward_filter", 1)),
        ("window={size=32x32 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf, batch_group_count=64", ("backward_filter", 64)),
        ("window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, feature_group_count=64", ("forward", 64)),
        # Groups as an additional axis.
        ("window={size=3x3x4 stride=1x1x3 pad=1_1x1_1x0_0 lhs_dilate=1x1x4}, dim_labels=b012f_01i2o->b012f",
         ("forward", 4)),
        ("window={size=3x3x4 stride=1x1x3 pad=2_1x2_1x0_0 lhs_dilate=2x2x4}, dim_labels=b012f_012oi->b012f",
         ("backward_input", 4)),
        ("window={size=16x16x4 stride=1x1x3 pad=0_1x0_1x0_0 lhs_dilate=1x1x4 rhs_dilate=2x2x1}, "
         "dim_labels=f012b_i012o->01b2f", ("backward_filter", 4)),
        # Products of matrices: batched along one axis, along two, and over three axes of which one is groups.
        ("dim_labels=bf_io->bf", None),
        ("window={size=24 stride=23 lhs_dilate=24}, dim_labels=0bf_0io->0bf", None),
        ("window={size=6x4 stride=5x3 lhs_dilate=6x4}, dim_labels=01bf_01io->01bf", None),
        ("window={size=16x4x32 stride=1x3x1 lhs_dilate=1x4x1}, dim_labels=102fb_102io->1bf02, "
         'metadata={op_name="jit(f)/gbhwc,gbhwo->gco/dot_general" stack_frame_id=2}', None),
    ],
)  # fmt: skip
def test_convolutions_of_a_tpu_are_recognized_by_their_windows(attributes, expected):
    found = only(f"ROOT %c = f32[16,32,32,64]{{3,0,2,1:T(8,128)}} convolution(%x, %y), {attributes}", "tpu")
    assert found == ([] if expected is None else [(expected[0], "bfloat16", expected[1])])


@pytest.mark.parametrize("groups", [1, 4])
def test_a_program_compiled_for_the_cpu_is_parsed(groups):
    def f(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(jnp.sin(x), w, (1, 1), "SAME", None, None, dimensions, groups)
        return lax.fori_loop(0, 3, lambda _, y: jnp.sin(lax.conv_general_dilated(y, w, (1, 1), "SAME", None, None,
                             dimensions, groups)), y)  # fmt: skip

    shapes = jax.ShapeDtypeStruct((2, 8, 8, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8 // groups, 8), jnp.float32)
    program = parse(jax.jit(f).lower(*shapes).compile().as_text())
    assert program.entry in program.computations
    names = [name for computation in program.computations.values() for name in computation]
    for instruction in program.instructions():
        assert instruction.opcode == "parameter" or set(instruction.operands) <= set(names)
    # One before the loop and one in it. CPUs have no calls of cuDNN.
    assert convolutions(program, "cuda") == Counter({("unfused", "float32", groups): 2})


EXCHANGES = """HloModule jit_train_step

%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %x = f32[4,2]{1,0} all-reduce(%arg), channel_id=1, to_apply=%sum
}

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%eager (p: f32[3]) -> f32[3] {
  ROOT %x = f32[3]{0} all-reduce(%p), channel_id=3, to_apply=%sum
}

%lazy (p: f32[3]) -> f32[3] {
  ROOT %p = f32[3]{0} parameter(0)
}

ENTRY %main (p: f32[3]) -> f32[3] {
  %all = (f32[3]{0}, bf16[2,5]{1,0}, /*index=2*/s32[]) all-reduce(%p, %q, %r), channel_id=2, to_apply=%sum
  %loop = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %g = f32[12]{0} all-gather(%p), dimensions={0}
  %c = f32[3]{0} conditional(%d, %p, %p), branch_computations={%lazy, %eager}
  %e = f32[3]{0} conditional(%b, %p, %p), true_computation=%eager, false_computation=%lazy
}
"""


def test_the_exchanged_bytes_of_a_program_are_summed():
    # 3 * 4 + 10 * 2 + 4, 8 * 4 in each of 7 rounds, and 3 * 4 in a branch twice; 12 * 4.
    assert exchanged_bytes(parse(EXCHANGES)) == {"all-reduce": 36 + 7 * 32 + 2 * 12, "all-gather": 48}


def test_asynchronous_collectives_count_once():
    text = EXCHANGES.replace("%g = f32[12]{0} all-gather(%p)", "%s = (f32[3], f32[12]) all-gather-start(%p)").replace(
        "  %c =", "  %g = f32[12]{0} all-gather-done(%s)\n  %c ="
    )
    assert collectives(parse(text)) == {"all-reduce": 3, "all-gather": 1}

//! What each operator does with the bits of NaNs.

use wasmparser::{
    BlockType, ContType, FrameKind, FuncType, ModuleArity, Operator, RefType, SubType,
};

use super::graph::{
    BOTH, CLEAN, CLEAN_32, CLEAN_64, F32, F64, Lanes, MASK_32, MASK_64, NodeId, RAW, Shape,
};

/// What an operator that is not about locals or control does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Sees every bit of its operands; what it leaves is one of the fixed values.
    Sees(NodeId),
    /// Asks of the operands' lanes of this width only what is the same for every NaN; what it
    /// leaves is one of the fixed values.
    Asks(Lanes, NodeId),
    /// Asks the first, and makes floats of the second.
    Makes(Lanes, Lanes, Shape),
    /// Leaves lanes of its operands as they are, except perhaps the sign; a canonical NaN may
    /// stay one, or not.
    Passes { lanes: Lanes, shape: Shape, stays_canonical: bool },
    /// Leaves one of two values.
    Select,
    /// Leaves the first operand with the sign of the second.
    CopySign(Lanes, Shape),
    /// Leaves bits of the first two, chosen by the third.
    BitSelect,
    /// Combines bits of two vectors, of which either may be a mask.
    And,
    /// The same, where only the second may be.
    AndNot,
    /// Combines bits: of masks it makes masks.
    Bits,
}

/// The effect of `operator`. What is not named sees everything and leaves raw bits.
#[expect(clippy::wildcard_enum_match_arm, reason = "unknown operators are taken at their worst")]
#[expect(clippy::too_many_lines, reason = "one table")]
pub(super) fn effect(operator: &Operator<'_>) -> Effect {
    use Operator as Op;
    match operator {
        Op::F32Ceil | Op::F32Floor | Op::F32Trunc | Op::F32Nearest | Op::F32Sqrt => {
            Effect::Makes(F32, F32, Shape::F32)
        }
        Op::F32Add | Op::F32Sub | Op::F32Mul | Op::F32Div | Op::F32Min | Op::F32Max => {
            Effect::Makes(F32, F32, Shape::F32)
        }
        Op::F64Ceil | Op::F64Floor | Op::F64Trunc | Op::F64Nearest | Op::F64Sqrt => {
            Effect::Makes(F64, F64, Shape::F64)
        }
        Op::F64Add | Op::F64Sub | Op::F64Mul | Op::F64Div | Op::F64Min | Op::F64Max => {
            Effect::Makes(F64, F64, Shape::F64)
        }
        Op::F32DemoteF64 => Effect::Makes(F64, F32, Shape::F32),
        Op::F64PromoteF32 => Effect::Makes(F32, F64, Shape::F64),
        Op::F32x4Ceil | Op::F32x4Floor | Op::F32x4Trunc | Op::F32x4Nearest | Op::F32x4Sqrt => {
            Effect::Makes(F32, F32, Shape::V128)
        }
        Op::F32x4Add | Op::F32x4Sub | Op::F32x4Mul => Effect::Makes(F32, F32, Shape::V128),
        Op::F32x4Div | Op::F32x4Min | Op::F32x4Max => Effect::Makes(F32, F32, Shape::V128),
        Op::F64x2Ceil | Op::F64x2Floor | Op::F64x2Trunc | Op::F64x2Nearest | Op::F64x2Sqrt => {
            Effect::Makes(F64, F64, Shape::V128)
        }
        Op::F64x2Add | Op::F64x2Sub | Op::F64x2Mul => Effect::Makes(F64, F64, Shape::V128),
        Op::F64x2Div | Op::F64x2Min | Op::F64x2Max => Effect::Makes(F64, F64, Shape::V128),
        Op::F32x4DemoteF64x2Zero => Effect::Makes(F64, F32, Shape::V128),
        Op::F64x2PromoteLowF32x4 => Effect::Makes(F32, F64, Shape::V128),

        Op::F32Eq | Op::F32Ne | Op::F32Lt | Op::F32Gt | Op::F32Le | Op::F32Ge => {
            Effect::Asks(F32, RAW)
        }
        Op::F64Eq | Op::F64Ne | Op::F64Lt | Op::F64Gt | Op::F64Le | Op::F64Ge => {
            Effect::Asks(F64, RAW)
        }
        Op::I32TruncF32S | Op::I32TruncF32U | Op::I64TruncF32S | Op::I64TruncF32U => {
            Effect::Asks(F32, RAW)
        }
        Op::I32TruncSatF32S | Op::I32TruncSatF32U => Effect::Asks(F32, RAW),
        Op::I64TruncSatF32S | Op::I64TruncSatF32U => Effect::Asks(F32, RAW),
        Op::I32TruncF64S | Op::I32TruncF64U | Op::I64TruncF64S | Op::I64TruncF64U => {
            Effect::Asks(F64, RAW)
        }
        Op::I32TruncSatF64S | Op::I32TruncSatF64U => Effect::Asks(F64, RAW),
        Op::I64TruncSatF64S | Op::I64TruncSatF64U => Effect::Asks(F64, RAW),
        Op::I32x4TruncSatF32x4S | Op::I32x4TruncSatF32x4U => Effect::Asks(F32, RAW),
        Op::I32x4TruncSatF64x2SZero | Op::I32x4TruncSatF64x2UZero => Effect::Asks(F64, RAW),
        Op::F32x4Eq | Op::F32x4Ne | Op::F32x4Lt | Op::F32x4Gt | Op::F32x4Le | Op::F32x4Ge => {
            Effect::Asks(F32, MASK_32)
        }
        Op::F64x2Eq | Op::F64x2Ne | Op::F64x2Lt | Op::F64x2Gt | Op::F64x2Le | Op::F64x2Ge => {
            Effect::Asks(F64, MASK_64)
        }

        Op::F32Const { value } => Effect::Sees(constant_32(value.bits())),
        Op::F64Const { value } => Effect::Sees(constant_64(value.bits())),
        Op::V128Const { value } => Effect::Sees(constant_128(*value.bytes())),
        Op::F32ConvertI32S | Op::F32ConvertI32U => Effect::Sees(CLEAN_32),
        Op::F32ConvertI64S | Op::F32ConvertI64U => Effect::Sees(CLEAN_32),
        Op::F64ConvertI32S | Op::F64ConvertI32U => Effect::Sees(CLEAN_64),
        Op::F64ConvertI64S | Op::F64ConvertI64U => Effect::Sees(CLEAN_64),
        Op::F32x4ConvertI32x4S | Op::F32x4ConvertI32x4U => Effect::Sees(CLEAN_32),
        Op::F64x2ConvertLowI32x4S | Op::F64x2ConvertLowI32x4U => Effect::Sees(CLEAN_64),
        Op::I32x4Eq | Op::I32x4Ne | Op::I32x4LtS | Op::I32x4LtU | Op::I32x4GtS => {
            Effect::Sees(MASK_32)
        }
        Op::I32x4GtU | Op::I32x4LeS | Op::I32x4LeU | Op::I32x4GeS | Op::I32x4GeU => {
            Effect::Sees(MASK_32)
        }
        Op::I64x2Eq | Op::I64x2Ne | Op::I64x2LtS => Effect::Sees(MASK_64),
        Op::I64x2GtS | Op::I64x2LeS | Op::I64x2GeS => Effect::Sees(MASK_64),

        Op::F32Abs => passes(F32, Shape::F32, true),
        Op::F64Abs => passes(F64, Shape::F64, true),
        Op::F32x4Abs => passes(F32, Shape::V128, true),
        Op::F64x2Abs => passes(F64, Shape::V128, true),
        Op::F32Neg => passes(F32, Shape::F32, false),
        Op::F64Neg => passes(F64, Shape::F64, false),
        Op::F32x4Neg => passes(F32, Shape::V128, false),
        Op::F64x2Neg => passes(F64, Shape::V128, false),
        Op::F32Copysign => Effect::CopySign(F32, Shape::F32),
        Op::F64Copysign => Effect::CopySign(F64, Shape::F64),
        Op::F32x4Splat | Op::F32x4ReplaceLane { .. } => passes(F32, Shape::V128, true),
        Op::F64x2Splat | Op::F64x2ReplaceLane { .. } => passes(F64, Shape::V128, true),
        Op::F32x4ExtractLane { .. } => passes(F32, Shape::F32, true),
        Op::F64x2ExtractLane { .. } => passes(F64, Shape::F64, true),
        // The smaller by comparison, bit for bit: no arithmetic.
        Op::F32x4PMin | Op::F32x4PMax => passes(F32, Shape::V128, true),
        Op::F64x2PMin | Op::F64x2PMax => passes(F64, Shape::V128, true),
        Op::I8x16Shuffle { lanes } => match shuffled(*lanes) {
            0 => Effect::Sees(RAW),
            lanes => passes(lanes, Shape::V128, true),
        },
        Op::Drop => Effect::Asks(BOTH, RAW),
        Op::Select | Op::TypedSelect { .. } => Effect::Select,
        Op::V128Bitselect => Effect::BitSelect,
        Op::V128And => Effect::And,
        Op::V128AndNot => Effect::AndNot,
        Op::V128Or | Op::V128Xor | Op::V128Not => Effect::Bits,
        _ => Effect::Sees(RAW),
    }
}

fn passes(lanes: Lanes, shape: Shape, stays_canonical: bool) -> Effect {
    Effect::Passes { lanes, shape, stays_canonical }
}

fn constant_32(bits: u32) -> NodeId {
    if f32::from_bits(bits).is_nan() && bits != NAN_32 { RAW } else { CLEAN_32 }
}

fn constant_64(bits: u64) -> NodeId {
    if f64::from_bits(bits).is_nan() && bits != NAN_64 { RAW } else { CLEAN_64 }
}

fn constant_128(bytes: [u8; 16]) -> NodeId {
    let (narrow, _) = bytes.as_chunks::<4>();
    let (wide, _) = bytes.as_chunks::<8>();
    let narrow = narrow.iter().all(|lane| constant_32(u32::from_le_bytes(*lane)) == CLEAN_32);
    let wide = wide.iter().all(|lane| constant_64(u64::from_le_bytes(*lane)) == CLEAN_64);
    match (narrow, wide) {
        (true, true) => CLEAN,
        (true, false) => CLEAN_32,
        (false, true) => CLEAN_64,
        (false, false) => RAW,
    }
}

/// The widths of the lanes that a shuffle leaves whole.
fn shuffled(lanes: [u8; 16]) -> Lanes {
    let whole = |width: usize| {
        lanes.chunks_exact(width).all(|lane| {
            usize::from(lane[0]).is_multiple_of(width)
                && lane.windows(2).all(|pair| pair[1] == pair[0] + 1)
        })
    };
    match (whole(4), whole(8)) {
        (_, true) => BOTH,
        (true, false) => F32,
        (false, false) => 0,
    }
}

/// Tells the number of operands and results of operators for which no module must be asked.
pub(super) struct NoModule;

impl ModuleArity for NoModule {
    fn sub_type_at(&self, _: u32) -> Option<&SubType> {
        None
    }
    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }
    fn type_index_of_function(&self, _: u32) -> Option<u32> {
        None
    }
    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }
    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }
    fn control_stack_height(&self) -> u32 {
        0
    }
    fn label_block(&self, _: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}

/// The canonical NaN of 32 bits: positive, and of its payload only the quiet bit.
pub(super) const NAN_32: u32 = 0x7fc0_0000;
/// The canonical NaN of 64 bits.
pub(super) const NAN_64: u64 = 0x7ff8_0000_0000_0000;

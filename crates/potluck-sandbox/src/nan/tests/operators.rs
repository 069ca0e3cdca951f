//! The operators that random modules are made of.

use super::generator::Ty::{self, F32, F64, I32, I64, V128};

/// Rows of operators that take the same.
pub(super) type Rows = &'static [(&'static [Ty], &'static str)];

/// Operators by what they take; those that are named more often are met more often.
pub(super) fn operators(ty: Ty) -> Rows {
    match ty {
        F32 => &[
            (&[F32, F32], "f32.add f32.sub f32.mul f32.div f32.min f32.max"),
            (&[F32, F32], "f32.add f32.sub f32.mul f32.div f32.copysign"),
            (&[F32], "f32.sqrt f32.ceil f32.floor f32.trunc f32.nearest f32.neg f32.abs"),
            (&[F64], "f32.demote_f64"),
            (&[V128], "f32x4.extract_lane"),
            (&[I32], "f32.reinterpret_i32 f32.convert_i32_s f32.convert_i32_u"),
        ],
        F64 => &[
            (&[F64, F64], "f64.add f64.sub f64.mul f64.div f64.min f64.max"),
            (&[F64, F64], "f64.add f64.sub f64.mul f64.div f64.copysign"),
            (&[F64], "f64.sqrt f64.ceil f64.floor f64.trunc f64.nearest f64.neg f64.abs"),
            (&[F32], "f64.promote_f32"),
            (&[V128], "f64x2.extract_lane"),
            (&[I64], "f64.reinterpret_i64 f64.convert_i64_s f64.convert_i64_u"),
        ],
        V128 => &[
            (&[V128, V128], "f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max"),
            (&[V128, V128], "f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max"),
            (&[V128, V128], "f32x4.pmin f32x4.pmax f64x2.pmin f64x2.pmax"),
            (&[V128, V128], "f32x4.lt f32x4.eq f64x2.ne f64x2.ge i32x4.gt_s i64x2.eq"),
            (&[V128, V128], "v128.and v128.or v128.xor v128.andnot i8x16.shuffle i8x16.swizzle"),
            (&[V128, V128], "i8x16.shuffle i32x4.add i64x2.add"),
            (&[V128], "f32x4.sqrt f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest"),
            (&[V128], "f64x2.sqrt f64x2.ceil f64x2.floor f64x2.trunc f64x2.nearest"),
            (&[V128], "f32x4.neg f32x4.abs f64x2.neg f64x2.abs v128.not"),
            (&[V128], "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4"),
            (&[V128], "i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f64x2_u_zero"),
            (&[V128], "f32x4.convert_i32x4_s f64x2.convert_low_i32x4_u"),
            (&[V128, V128, V128], "v128.bitselect"),
            (&[F32], "f32x4.splat"),
            (&[F64], "f64x2.splat"),
            (&[I64], "i64x2.splat"),
            (&[V128, F32], "f32x4.replace_lane"),
            (&[V128, F64], "f64x2.replace_lane"),
            (&[V128, I64], "i64x2.replace_lane"),
        ],
        I32 => &[
            (&[F32], "i32.reinterpret_f32"),
            (&[F32], "i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.reinterpret_f32"),
            (&[F64], "i32.trunc_sat_f64_s i32.trunc_sat_f64_u"),
            (&[F32, F32], "f32.lt f32.ne f32.ge"),
            (&[F64, F64], "f64.lt f64.ne f64.ge"),
            (&[V128], "i32x4.extract_lane i32x4.bitmask v128.any_true i64x2.all_true"),
            (&[I32, I32], "i32.add i32.xor i32.and i32.mul"),
            (&[I64], "i32.wrap_i64"),
        ],
        I64 => &[
            (&[F64], "i64.reinterpret_f64 i64.trunc_sat_f64_s i64.trunc_sat_f64_u"),
            (&[F64], "i64.reinterpret_f64"),
            (&[F32], "i64.trunc_sat_f32_s i64.trunc_sat_f32_u"),
            (&[I64, I64], "i64.add i64.xor i64.mul"),
            (&[I32], "i64.extend_i32_u"),
        ],
    }
}

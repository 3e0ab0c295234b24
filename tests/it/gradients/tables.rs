//! Ops whose gradients are no derivatives, or not Python's, and those that have none.

/// Where a gradient is not what finite differences give, and why. It is Python's there as well.
pub(super) const NO_DERIVATIVE: &[(&str, &str)] = &[
    (
        "linalg_basic::hadamard_transform",
        "MLX takes every Hadamard matrix for symmetric; those of 12, 20 and 28 rows are not",
    ),
    ("misc::stop_gradient", "a constant by definition"),
    ("reduction::std", NO_SPREAD),
    ("reduction::std_axes", NO_SPREAD),
];

const NO_SPREAD: &str = "of a single number: the root of a variance of zero has no slope";

/// Ops with points at which they have no derivative.
pub(super) const KINKS: &[(&str, &str)] = &[
    ("arithmetic::ceil", STEPS),
    ("arithmetic::clip", "at a bound"),
    ("arithmetic::floor", STEPS),
    ("arithmetic::round", STEPS),
    ("arithmetic::trunc", STEPS),
    ("quantized::quantize", "scales follow the largest element"),
];

const STEPS: &str = "at a step";

/// Where ours answers otherwise than Python.
pub(super) const EXPLAINED: &[(&str, &str)] = &[
    (
        "arithmetic::divmod",
        "Python leaves out the remainder's gradient",
    ),
    ("array::add_at", SPREAD_UPDATE),
    ("array::maximum_at", SPREAD_UPDATE),
    ("array::minimum_at", SPREAD_UPDATE),
    ("array::set", SPREAD_UPDATE),
    (
        "misc::full_like",
        "Python multiplies the gradient by the value; ours is that of broadcasting",
    ),
    (
        "shape::pad",
        "one pair of widths for all axes is a convenience of Python's",
    ),
];

const SPREAD_UPDATE: &str = "one number written to an index array and a slice: Python's raises or is wrong, see \
     the finite differences";

/// Ops whose inputs or results are no floating-point arrays, so that there is no gradient.
pub(super) const CONSTANT: &[&str] = &[
    "array::arange",
    "array::arange_dtype",
    "array::eye",
    "array::identity",
    "array::linspace",
    "array::linspace_with",
    "array::nonzero",
    "array::ones",
    "array::ones_dtype",
    "array::tri",
    "array::zeros",
    "array::zeros_dtype",
    "comparison::allclose",
    "comparison::array_equal",
    "comparison::equal",
    "comparison::greater",
    "comparison::greater_equal",
    "comparison::isclose",
    "comparison::isclose_with",
    "comparison::isfinite",
    "comparison::isinf",
    "comparison::isnan",
    "comparison::isneginf",
    "comparison::isposinf",
    "comparison::less",
    "comparison::less_equal",
    "comparison::not_equal",
    "fft::fftfreq",
    "fft::rfftfreq",
    "indexing::checked_indices",
    "linalg_basic::einsum_path",
    "logical::bitwise_and",
    "logical::bitwise_invert",
    "logical::bitwise_or",
    "logical::bitwise_xor",
    "logical::left_shift",
    "logical::logical_and",
    "logical::logical_not",
    "logical::logical_or",
    "logical::logical_xor",
    "logical::right_shift",
    "misc::argpartition",
    "misc::argsort",
    "misc::bartlett",
    "misc::blackman",
    "misc::hamming",
    "misc::hanning",
    "misc::number_of_elements",
    "misc::searchsorted",
    "quantized::from_fp8",
    "quantized::gather_qmm_with_global_scale",
    "quantized::gather_qqmm",
    "quantized::quantize_with_global_scale",
    "quantized::to_fp8",
    "random::bernoulli",
    "random::bits",
    "random::categorical",
    "random::categorical_n",
    "random::categorical_shape",
    "random::gumbel",
    "random::key",
    "random::laplace",
    "random::normal",
    "random::permutation_n",
    "random::randint",
    "random::seed",
    "random::split",
    "random::split_n",
    "random::uniform",
    "reduction::all",
    "reduction::all_axes",
    "reduction::any",
    "reduction::any_axes",
    "reduction::argmax",
    "reduction::argmax_axis",
    "reduction::argmin",
    "reduction::argmin_axis",
    "reduction::count_nonzero",
    "reduction::count_nonzero_axes",
];

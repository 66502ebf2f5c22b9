//! kernelet for NumPy: the Rust half of the Python package `kernelet`. Arrays are checked here, so
//! that a wrong one raises an exception that says what came and what is wanted; no kernel panics.

mod arrays;
mod cpu;
mod kernels;
mod networks;
mod pixels;
mod study;
mod training;

use kernelet::allocator::Aligned;
use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

/// What `import kernelet` brings in; `kernelet/_kernelet.pyi` has the types.
#[pymodule]
mod _kernelet {
    #[pymodule_export]
    use crate::cpu::Cpu;
    #[pymodule_export]
    use crate::kernels::{
        Normalization, adam, avg_pool, avg_pool_backward, column_sums, conv_block,
        conv_block_backward_weights, conv2d, conv2d_backward_input, conv2d_backward_weights,
        cross_entropy, cross_entropy_backward, dropout, exp, linear, linear_backward_input,
        linear_backward_weights, linear_backward_weights_adam, matmul, max_pool, max_pool_backward,
        momentum, normalize_max_pool, normalize_max_pool_backward, relu, relu_backward,
        relu_batch_norm, relu_batch_norm_backward, softmax, softmax_backward,
        softmax_cross_entropy, softmax_cross_entropy_backward, softmax_cross_entropy_forward,
    };
    #[pymodule_export]
    use crate::networks::{Cnn, Mlp};
    #[pymodule_export]
    use crate::study::{study_average_ce, study_grad_ce, study_relu};

    #[pymodule_export]
    use crate::training::TrainingDiverged;

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

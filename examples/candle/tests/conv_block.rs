//! The op against candle's own ops, its gradients against finite differences, and what it refuses.

use std::sync::Arc;

use candle_core::{CustomOp3, DType, Device, Error, Result, Tensor, Var};
use kernelet::Cpu;
use kernelet_candle_example::conv_block::{ConvBlock, conv_block};
use kernelet_candle_example::own_ops::{
    self, Pool, channels_first, channels_last, filters_first, filters_last,
};
use kernelet_candle_example::{largest_difference, normals};

fn cpu() -> Result<Cpu> {
    Cpu::detect().map_err(Error::wrap)
}

fn var(shape: &[usize], stream: u64) -> Result<Var> {
    Var::from_tensor(&normals(shape, stream)?)
}

fn gradient(of: &candle_core::backprop::GradStore, var: &Tensor) -> Result<Tensor> {
    of.get(var).cloned().ok_or_else(|| Error::Msg("a gradient is missing".into()))
}

#[test]
fn agrees_with_candles_own_ops() -> Result<()> {
    // The study's; several channels; odd sizes, of which the pool leaves out the last row or column.
    for ([images, height, width, channels], filters) in
        [([3, 28, 28, 1], 32), ([4, 8, 6, 3], 5), ([2, 5, 7, 2], 9), ([1, 2, 3, 1], 1)]
    {
        let of = format!("{images} images of {height}x{width}x{channels}, {filters} filters");
        let x = var(&[images, height, width, channels], 0)?;
        let w = var(&[3, 3, channels, filters], 1)?;
        let b = var(&[filters], 2)?;
        let dy = normals((images, height / 2, width / 2, filters), 3)?;
        let y = conv_block(&cpu()?, &x, &w, &b)?;
        let gradients = (&y * &dy)?.sum_all()?.backward()?;

        // In float64: candle adds up a channel's values one after the other, which is rough in float32.
        let exact = |tensor: Tensor| Var::from_tensor(&tensor.to_dtype(DType::F64)?);
        let own_x = exact(channels_first(&x)?)?;
        let own_w = exact(filters_first(&w)?)?;
        let own_b = exact(b.reshape((1, filters, 1, 1))?)?;
        let own_y = own_ops::conv_block(&own_x, &own_w, &own_b, Pool::LargestOfFour)?;
        let own_gradients =
            (&own_y * exact(channels_first(&dy)?)?.as_tensor())?.sum_all()?.backward()?;

        let own_dx = channels_last(&gradient(&own_gradients, &own_x)?)?;
        let own_dw = filters_last(&gradient(&own_gradients, &own_w)?)?;
        let own_db = gradient(&own_gradients, &own_b)?.flatten_all()?;
        // Where x is data its gradient is left out, and another kernel makes those of w and b.
        let data = x.as_detached_tensor();
        let of_weights = (conv_block(&cpu()?, &data, &w, &b)? * &dy)?.sum_all()?.backward()?;
        assert!(of_weights.get(&data).is_none(), "{of}: data have no gradient");
        for (name, ours, theirs) in [
            ("y", y, channels_last(&own_y)?),
            ("dx", gradient(&gradients, &x)?, own_dx),
            ("dw", gradient(&gradients, &w)?, own_dw.clone()),
            ("db", gradient(&gradients, &b)?, own_db.clone()),
            ("dw, x being data", gradient(&of_weights, &w)?, own_dw),
            ("db, x being data", gradient(&of_weights, &b)?, own_db),
        ] {
            let apart = largest_difference(&ours, &theirs)?;
            assert!(apart <= 1e-5, "{of}: {name} is {apart:e} apart");
        }
    }
    Ok(())
}

#[test]
fn gradients_are_slopes() -> Result<()> {
    let cpu = cpu()?;
    let (x, w, b) = (var(&[2, 4, 4, 2], 10)?, var(&[3, 3, 2, 3], 11)?, var(&[3], 12)?);
    let dy = normals((2, 2, 2, 3), 13)?;
    let loss = || (conv_block(&cpu, &x, &w, &b)? * &dy)?.sum_all();
    let gradients = loss()?.backward()?;
    let step = 2e-3;
    for (name, var) in [("x", &x), ("w", &w), ("b", &b)] {
        let values = var.flatten_all()?.to_vec1::<f32>()?;
        let loss_with = |at: usize, change: f32| -> Result<f64> {
            let mut values = values.clone();
            values[at] += change;
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
            Ok(f64::from(loss()?.to_scalar::<f32>()?))
        };
        let mut slopes = vec![];
        for at in 0..values.len() {
            let rise = loss_with(at, step)? - loss_with(at, -step)?;
            slopes.push((rise / f64::from(2.0 * step)) as f32);
        }
        loss_with(0, 0.0)?;
        let slopes = Tensor::from_vec(slopes, var.shape(), &Device::Cpu)?;
        let apart = largest_difference(&gradient(&gradients, var)?, &slopes)?;
        assert!(apart < 1e-2, "d{name} is {apart:e} apart from the slopes");
    }
    Ok(())
}

#[test]
fn a_part_of_a_tensor_is_read_where_it_lies() -> Result<()> {
    let cpu = cpu()?;
    let (w, b) = (normals((3, 3, 1, 4), 20)?, normals(4, 21)?);
    // Contiguous, from an offset on.
    let part = normals((6, 4, 4, 1), 22)?.narrow(0, 2, 3)?;
    let copy =
        Tensor::from_vec(part.flatten_all()?.to_vec1::<f32>()?, part.shape(), part.device())?;
    let (of_part, of_copy) = (conv_block(&cpu, &part, &w, &b)?, conv_block(&cpu, &copy, &w, &b)?);
    assert_eq!(largest_difference(&of_part, &of_copy)?, 0.0, "the same bits");
    Ok(())
}

#[test]
fn backward_runs_again() -> Result<()> {
    let (x, w, b) = (normals((2, 4, 4, 1), 30)?, var(&[3, 3, 1, 2], 31)?, var(&[2], 32)?);
    let loss = conv_block(&cpu()?, &x, &w, &b)?.sum_all()?;
    let (once, twice) = (loss.backward()?, loss.backward()?);
    for var in [&w, &b] {
        let apart = largest_difference(&gradient(&once, var)?, &gradient(&twice, var)?)?;
        assert_eq!(apart, 0.0, "the same bits");
    }
    Ok(())
}

#[test]
fn an_op_runs_forward_once() -> Result<()> {
    let (x, w, b) = (normals((1, 4, 4, 1), 0)?, normals((3, 3, 1, 2), 1)?, normals(2, 2)?);
    let op: Arc<Box<dyn CustomOp3 + Send + Sync>> = Arc::new(Box::new(ConvBlock::new(&cpu()?)));
    x.apply_op3_arc(&w, &b, op.clone())?;
    let message = refusal(x.apply_op3_arc(&w, &b, op));
    assert!(message.contains("a new one for every forward pass"), "{message}");
    Ok(())
}

#[test]
fn an_op_called_by_hand_checks_its_gradient() -> Result<()> {
    let (x, w, b) = (normals((1, 4, 4, 1), 0)?, normals((3, 3, 1, 2), 1)?, normals(2, 2)?);
    let op: Arc<Box<dyn CustomOp3 + Send + Sync>> = Arc::new(Box::new(ConvBlock::new(&cpu()?)));
    let message = refusal(op.bwd(&x, &w, &b, &x, &x));
    assert!(message.contains("no backward pass before a forward pass"), "{message}");
    let y = x.apply_op3_arc(&w, &b, op.clone())?;
    let message = refusal(op.bwd(&x, &w, &b, &y, &x));
    assert!(message.contains("other shapes than the forward pass had"), "{message}");
    let message = refusal(op.bwd(&x, &w, &b, &y, &y.to_dtype(DType::F64)?));
    assert!(message.contains("dy has dtype F64, wanted F32"), "{message}");

    // One value, seen everywhere, is not contiguous, and is copied.
    let spread = normals((1, 1, 1, 2), 3)?.broadcast_as(y.shape())?;
    let (_, dw, _) = op.bwd(&x, &w, &b, &y, &spread)?;
    let (_, wanted, _) = op.bwd(&x, &w, &b, &y, &spread.contiguous()?)?;
    let (Some(dw), Some(wanted)) = (dw, wanted) else {
        candle_core::bail!("a gradient is missing");
    };
    assert_eq!(largest_difference(&dw, &wanted)?, 0.0, "the same bits");
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let cpu = cpu()?;
    let x = normals((2, 4, 6, 3), 40)?;
    let (w, b) = (normals((3, 3, 3, 5), 41)?, normals(5, 42)?);
    let f64s = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let cases: [(Tensor, Tensor, Tensor, &[&str]); 13] = [
        (f64s(&x)?, w.clone(), b.clone(), &["x has dtype F64", "wanted F32"]),
        (x.clone(), f64s(&w)?, b.clone(), &["w has dtype F64", "wanted F32"]),
        (x.clone(), w.clone(), f64s(&b)?, &["b has dtype F64", "wanted F32"]),
        (
            x.transpose(1, 2)?,
            w.clone(),
            b.clone(),
            &["x of shape [2, 6, 4, 3] has strides [72, 3, 18, 1]", "wanted contiguous"],
        ),
        (
            x.clone(),
            w.transpose(0, 1)?,
            b.clone(),
            &["w of shape [3, 3, 3, 5] has strides", "call contiguous() first"],
        ),
        (x.clone(), w.clone(), b.narrow(0, 0, 3)?, &["b has shape [3], wanted (filters) = (5)"]),
        (x.get(0)?, w.clone(), b.clone(), &["x has shape [4, 6, 3], wanted (images, height"]),
        (
            x.clone(),
            normals((5, 3, 3, 3), 0)?,
            b.clone(),
            &["w has shape [5, 3, 3, 3]", "wanted (3, 3, channels, filters) = (3, 3, 3, "],
        ),
        (x.clone(), normals((3, 3, 2, 5), 0)?, b.clone(), &["w has shape [3, 3, 2, 5]"]),
        (x.clone(), w.get(0)?, b.clone(), &["w has shape [3, 3, 5]"]),
        (x.clone(), w.clone(), b.reshape((1, 5))?, &["b has shape [1, 5]", "(filters) = (5)"]),
        (x.narrow(0, 0, 0)?, w.clone(), b.clone(), &["x has shape [0, 4, 6, 3]"]),
        (
            normals((2, 1, 6, 3), 0)?,
            w.clone(),
            b.clone(),
            &["x has shape [2, 1, 6, 3], wanted at least (1, 2, 2, 1)"],
        ),
    ];
    for (x, w, b, wanted) in cases {
        let message = refusal(conv_block(&cpu, &x, &w, &b));
        for part in wanted {
            assert!(message.contains(part), "{message:?} should contain {part:?}");
        }
    }
    Ok(())
}

fn refusal<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

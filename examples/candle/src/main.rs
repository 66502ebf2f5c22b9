//! Checks kernelet's block in candle against the same block of candle's own ops, times both, and
//! trains a network through it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor, Var, utils::get_num_threads};
use candle_nn::{Linear, Module, Optimizer, SGD, loss::cross_entropy};
use kernelet::Cpu;
use kernelet::data::{Dataset, Samples};
use kernelet::nn::init::xavier_normal;
use kernelet_candle_example::conv_block::conv_block;
use kernelet_candle_example::own_ops::{self, Pool};
use kernelet_candle_example::{largest_difference, normals};

const SIDE: usize = 28;
const FILTERS: usize = 32;
/// What kernelet's block may be off by, as a share of the largest magnitude.
const TOLERANCE: f64 = 1e-5;
/// And candle's own ops, which add up a channel's 25,088 values one after the other.
const OWN_TOLERANCE: f64 = 1e-3;
/// Rounds in which all take a turn each; one more before them warms up.
const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let cpu = Cpu::detect()?;
    println!(
        "kernelet: {}, {} threads; candle: {} threads",
        cpu.isa(),
        cpu.threads(),
        get_num_threads()
    );
    // On one of rayon's threads, which both use, parallel parts start soonest.
    cpu.install(|| {
        check(&cpu)?;
        time(&cpu)?;
        train(&cpu)
    })
}

/// A batch, and the gradient of what the block makes of it, in either layout; weights to learn.
struct Batch {
    x: Tensor,
    dy: Tensor,
    w: Var,
    b: Var,
}

/// What a pass makes.
struct Pass {
    y: Tensor,
    dw: Tensor,
    db: Tensor,
}

impl Batch {
    /// Of random numbers, in kernelet's layout.
    fn random(images: usize) -> Result<Self> {
        let mut w = vec![0.0; 9 * FILTERS];
        xavier_normal(&mut w, 9, 9 * FILTERS, 1, 0);
        Ok(Self {
            x: normals((images, SIDE, SIDE, 1), 1)?,
            dy: normals((images, SIDE / 2, SIDE / 2, FILTERS), 2)?,
            w: Var::from_vec(w, (3, 3, 1, FILTERS), &Device::Cpu)?,
            b: Var::from_tensor(&(normals(FILTERS, 3)? * 0.1)?)?,
        })
    }

    /// The same in candle's layout.
    fn channels_first(&self) -> Result<Self> {
        Ok(Self {
            x: own_ops::channels_first(&self.x)?,
            dy: own_ops::channels_first(&self.dy)?,
            w: Var::from_tensor(&own_ops::filters_first(&self.w)?)?,
            b: Var::from_tensor(&self.b.reshape((1, FILTERS, 1, 1))?)?,
        })
    }

    fn to_f64(&self) -> Result<Self> {
        Ok(Self {
            x: self.x.to_dtype(DType::F64)?,
            dy: self.dy.to_dtype(DType::F64)?,
            w: Var::from_tensor(&self.w.to_dtype(DType::F64)?)?,
            b: Var::from_tensor(&self.b.to_dtype(DType::F64)?)?,
        })
    }

    fn through_kernelet(&self, cpu: &Cpu) -> Result<Tensor> {
        Ok(conv_block(cpu, &self.x, &self.w, &self.b)?)
    }

    fn through_own_ops(&self, pool: Pool) -> Result<Tensor> {
        Ok(own_ops::conv_block(&self.x, &self.w, &self.b, pool)?)
    }

    /// Back from the sum of y dy, whose gradient of y is dy.
    fn back(&self, y: Tensor) -> Result<Pass> {
        let mut gradients = (&y * &self.dy)?.sum_all()?.backward()?;
        let dw = gradients.remove(&self.w).context("no gradient of w")?;
        let db = gradients.remove(&self.b).context("no gradient of b")?;
        Ok(Pass { y, dw, db })
    }
}

impl Pass {
    /// From candle's layout to kernelet's.
    fn channels_last(&self) -> Result<Self> {
        Ok(Self {
            y: own_ops::channels_last(&self.y)?,
            dw: own_ops::filters_last(&self.dw)?,
            db: self.db.flatten_all()?,
        })
    }
}

/// Both against candle's own ops in float64.
fn check(cpu: &Cpu) -> Result<()> {
    let batch = Batch::random(32)?;
    let first = batch.channels_first()?;
    let ours = batch.back(batch.through_kernelet(cpu)?)?;
    let theirs = first.back(first.through_own_ops(Pool::LargestOfFour)?)?.channels_last()?;
    let double = first.to_f64()?;
    let exact = double.back(double.through_own_ops(Pool::LargestOfFour)?)?.channels_last()?;
    println!(
        "\nLargest difference from candle's ops in float64, as a share of the largest magnitude\n\
         (at most {TOLERANCE:e} and {OWN_TOLERANCE:e}):\n\n            kernelet's block   candle's ops"
    );
    for (name, exact, ours, theirs) in [
        ("y", &exact.y, &ours.y, &theirs.y),
        ("dw", &exact.dw, &ours.dw, &theirs.dw),
        ("db", &exact.db, &ours.db, &theirs.db),
    ] {
        let ours = largest_difference(ours, exact)?;
        let theirs = largest_difference(theirs, exact)?;
        println!("  {name:<8}  {ours:>16.1e}   {theirs:>12.1e}");
        ensure!(ours <= TOLERANCE, "kernelet's {name} is more than {TOLERANCE:e} off");
        ensure!(theirs <= OWN_TOLERANCE, "candle's {name} is more than {OWN_TOLERANCE:e} off");
    }
    Ok(())
}

fn time(cpu: &Cpu) -> Result<()> {
    println!(
        "\nForward and backward of {SIDE}x{SIDE}x1 images, {FILTERS} filters: medians of {ROUNDS} rounds\n\
         in turns; how many times as long as kernelet's block, with the smallest and largest round.\n\
         candle's conv2d always makes x's gradient; kernelet's block where x depends on a variable.\n"
    );
    println!("  images  block                             ms   times as long");
    for images in [32, 256] {
        let batch = Batch::random(images)?;
        let first = batch.channels_first()?;
        let x_too = Batch { x: Var::from_tensor(&batch.x)?.into_inner(), ..Batch::random(images)? };
        let blocks: [(&str, &dyn Fn() -> Result<Tensor>); 4] = [
            ("kernelet's", &|| batch.through_kernelet(cpu)),
            ("kernelet's, x's gradient too", &|| x_too.through_kernelet(cpu)),
            ("candle's ops, pool of four", &|| first.through_own_ops(Pool::LargestOfFour)),
            ("candle's ops, max_pool2d (1)", &|| first.through_own_ops(Pool::MaxPool2d)),
        ];
        let mut rounds = vec![];
        for round in 0..=ROUNDS {
            let mut turns = [0.0; 4];
            for (turn, (_, forward)) in turns.iter_mut().zip(&blocks) {
                *turn = take_turn(forward)?;
            }
            if round > 0 {
                rounds.push(turns);
            }
        }
        for (index, (name, _)) in blocks.iter().enumerate() {
            let (_, ms, _) = spread(rounds.iter().map(|turns| 1e3 * turns[index]));
            print!("  {images:>6}  {name:<30} {ms:>6.2}");
            let (least, median, most) = spread(rounds.iter().map(|turns| turns[index] / turns[0]));
            if index == 0 {
                println!("   1");
            } else {
                println!("   {median:.1} ({least:.1} to {most:.1})");
            }
        }
    }
    println!("\n  (1) candle 0.11.1's max_pool2d has a wrong gradient: for its time only.");
    Ok(())
}

/// Median seconds of a pass forward and backward, of as many as fit into a turn.
fn take_turn(forward: &dyn Fn() -> Result<Tensor>) -> Result<f64> {
    let (start, mut seconds) = (Instant::now(), vec![]);
    while seconds.is_empty() || start.elapsed() < TURN {
        let start = Instant::now();
        // candle's backward begins with ones, so that there is nothing in it but the block. Giving
        // the memory back is part of a pass.
        drop(forward()?.backward()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let (_, median, _) = spread(seconds.into_iter());
    Ok(median)
}

/// The smallest, the median and the largest.
fn spread(numbers: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let last = sorted.len().saturating_sub(1);
    let median = (at(last / 2) + at(last.div_ceil(2))) / 2.0;
    (at(0), median, at(last))
}

/// Block, flatten, linear layer, cross-entropy: candle's autodiff goes through all of it.
fn train(cpu: &Cpu) -> Result<()> {
    const BATCH: usize = 64;
    const STEPS: usize = 100;
    const RATE: f64 = 1e-3;
    const POOLED: usize = SIDE / 2 * (SIDE / 2) * FILTERS;

    let letters = Dataset::letters()?;
    let classes = letters.classes;
    let split = letters.split(Some((BATCH * STEPS, 1000)), Some(521))?;
    let tensors = |samples: Samples| -> Result<(Tensor, Tensor)> {
        let n = samples.len();
        let images = Tensor::from_vec(samples.images, (n, SIDE, SIDE, 1), &Device::Cpu)?;
        Ok((images, Tensor::from_vec(samples.labels, n, &Device::Cpu)?))
    };
    let (images, labels) = tensors(split.train)?;
    let (unseen, unseen_labels) = tensors(split.valid)?;

    let weights = |shape: &[usize], inputs, outputs, stream| -> Result<Var> {
        let mut values = vec![0.0; shape.iter().product()];
        xavier_normal(&mut values, inputs, outputs, 1, stream);
        Ok(Var::from_vec(values, shape, &Device::Cpu)?)
    };
    let w = weights(&[3, 3, 1, FILTERS], 9, 9 * FILTERS, 0)?;
    let b = Var::zeros(FILTERS, DType::F32, &Device::Cpu)?;
    let w1 = weights(&[classes, POOLED], POOLED, classes, 1)?;
    let b1 = Var::zeros(classes, DType::F32, &Device::Cpu)?;
    let linear = Linear::new(w1.as_tensor().clone(), Some(b1.as_tensor().clone()));
    let logits = |x: &Tensor| -> Result<Tensor> {
        let pooled = conv_block(cpu, x, &w, &b)?;
        Ok(linear.forward(&pooled.flatten_from(1)?)?)
    };

    println!("\nTraining on letters: block, linear layer, cross-entropy; SGD, batches of {BATCH}:");
    let mut sgd = SGD::new(vec![w.clone(), b.clone(), w1, b1], RATE)?;
    for step in 0..STEPS {
        // A part of the tensor, which the op reads where it lies.
        let x = images.narrow(0, step * BATCH, BATCH)?;
        let loss = cross_entropy(&logits(&x)?, &labels.narrow(0, step * BATCH, BATCH)?)?;
        sgd.backward_step(&loss)?;
        if step % 20 == 0 || step + 1 == STEPS {
            println!("  step {:>3}  loss {:.3}", step + 1, loss.to_scalar::<f32>()?);
        }
    }
    // Normalised with their own moments, as they are one batch.
    let hits = logits(&unseen)?.argmax(D::Minus1)?.eq(&unseen_labels)?.to_dtype(DType::F32)?;
    println!(
        "  right of {} others: {:.1}%",
        hits.elem_count(),
        100.0 * hits.mean_all()?.to_scalar::<f32>()?
    );
    Ok(())
}

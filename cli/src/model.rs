//! A trained network from a weight file, whichever of the two it is.

use kernelet::data::PIXELS;
use kernelet::data::npz::{Input, list_names};
use kernelet::kernels::relu_batch_norm::{Moments, Normalization, RunningMoments};
use kernelet::nn::cnn::EPSILON;
use kernelet::nn::{Cnn, Mlp, cnn, mlp};
use kernelet::train::weights::{array_names, load_cnn, load_mlp};
use kernelet::{Cpu, Error};

use crate::network::check_memory;
use crate::output::count;

/// A network for images of 28 x 28 pixels.
pub enum Model {
    Mlp(Mlp),
    /// With the running moments of its training, if the file has them.
    Cnn(Cnn, Option<RunningMoments>),
}

/// Which mean and variance a CNN normalises with.
#[derive(Clone, Copy)]
pub enum NormalizeWith {
    /// The running moments of training; where there are none, those of the images.
    RunningMoments,
    /// Those of the images, as training evaluates.
    Images,
}

impl Model {
    /// Reads a weight file: that of an MLP if it has an array `w_h`, that of a CNN if it has `w0`.
    pub fn load<'a>(file: impl Into<Input<'a>>) -> Result<Self, Error> {
        let file = file.into();
        let fail = |why| Err(Error::File { path: file.path.into(), why });
        let names = array_names(file)?;
        let has = |wanted| names.iter().any(|name| name == wanted);
        let model = match (has("w_h"), has("w0")) {
            (true, false) => Self::Mlp(load_mlp(file)?),
            (false, true) => {
                let (cnn, running_moments) = load_cnn(file, 28, 28)?;
                Self::Cnn(cnn, running_moments)
            }
            _ => {
                return fail(format!(
                    "holds {}: the weights of either an MLP (w_h, b_h, w_o, b_o) or a CNN (w0, b0, \
                     w1, b1, w2, b2) are expected",
                    list_names(&names)
                ));
            }
        };
        let inputs = match &model {
            Self::Mlp(mlp) => mlp.shape.inputs,
            Self::Cnn(cnn, _) => cnn.shape.pixels(),
        };
        if inputs != PIXELS {
            return fail(format!(
                "is a network for images of {inputs} values: images here have {PIXELS}"
            ));
        }
        model.check_memory()?;
        Ok(model)
    }

    /// Makes sure that a small file does not ask for a large workspace.
    fn check_memory(&self) -> Result<(), Error> {
        let (bytes, units) = match self {
            Self::Mlp(Mlp { shape, .. }) => {
                (mlp::Workspace::bytes(*shape, usize::MAX), shape.hidden)
            }
            Self::Cnn(Cnn { shape, .. }, _) => {
                (cnn::Workspace::bytes_to_evaluate(*shape, usize::MAX), shape.hidden)
            }
        };
        check_memory(bytes, || format!("{} and what leads to them", count(units, "hidden unit")))
    }

    pub fn classes(&self) -> usize {
        match self {
            Self::Mlp(mlp) => mlp.shape.classes,
            Self::Cnn(cnn, _) => cnn.shape.classes,
        }
    }

    /// The probabilities of all classes, image by image, for images of [`PIXELS`] values each.
    pub fn probabilities(&self, cpu: &Cpu, images: &[f32], with: NormalizeWith) -> Vec<f32> {
        let mut probabilities = vec![0.0; images.len() / PIXELS * self.classes()];
        cpu.install(|| match self {
            Self::Mlp(mlp) => {
                let work = &mut mlp::Workspace::default();
                mlp.predict(cpu, work, images, &mut probabilities);
            }
            Self::Cnn(cnn, running_moments) => {
                let work = &mut cnn::Workspace::default();
                let mut normalization = Normalization::identity(cnn.shape.filters);
                match (with, running_moments) {
                    (NormalizeWith::RunningMoments, Some(moments)) => {
                        normalization.set_running(moments, EPSILON);
                    }
                    _ => {
                        let mut moments = Moments::new(cnn.shape.filters);
                        cnn.moments(cpu, work, images, &mut moments);
                        normalization.set(&moments, EPSILON);
                    }
                }
                cnn.predict(cpu, work, &normalization, images, &mut probabilities);
            }
        });
        probabilities
    }
}

/// The class with the largest probability, the first of equals, as training counts hits; none if
/// the network has computed something that is no number.
pub fn guess(probabilities: &[f32]) -> Option<usize> {
    let first_largest = |best: usize, class: usize| {
        if probabilities[class] > probabilities[best] { class } else { best }
    };
    let known = !probabilities.iter().any(|p| p.is_nan());
    (0..probabilities.len()).reduce(first_largest).filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::guess;

    #[test]
    fn the_guess_is_the_first_of_the_largest() {
        assert_eq!(guess(&[0.1, 0.4, 0.1, 0.4]), Some(1), "two largest");
        assert_eq!(guess(&[0.25; 4]), Some(0), "all the same");
        assert_eq!(guess(&[0.1, f32::NAN, 0.9]), None, "no number");
        assert_eq!(guess(&[]), None, "no class");
    }
}

//! What is asked and answered, one JSON object a line: PROTOCOL.md in types.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::works::Work;

/// A line to a contestant.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Get a work ready, do it once, write what comes out.
    Prepare {
        /// Its name and spec.
        #[serde(flatten)]
        work: Work,
        /// The folder that its inputs are in.
        inputs: PathBuf,
        /// The folder that its outputs go to.
        outputs: PathBuf,
    },
    /// Do it again and again.
    Run {
        /// For so long, and at least once.
        seconds: f64,
    },
    /// Say what you are.
    Version {},
}

/// A line from a contestant.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The work is prepared, its outputs are written.
    Ready {},
    /// The contestant does not have the work, and why.
    Unsupported(String),
    /// Seconds of every run.
    Times(Vec<f64>),
    /// The library and its version.
    Version(String),
    /// What went wrong.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::{Answer, Request};
    use crate::works::{Gemm, Work};

    #[test]
    fn lines_are_as_the_protocol_has_them() {
        let work = Gemm { m: 1, k: 2, n: 3, a_transposed: false, b_transposed: true };
        let request =
            Request::Prepare { work: Work::Gemm(work), inputs: "in".into(), outputs: "out".into() };
        let line = serde_json::to_string(&request).expect("JSON");
        let expected = r#"{"prepare":{"work":"gemm","spec":{"m":1,"k":2,"n":3,"a_transposed":false,"b_transposed":true},"inputs":"in","outputs":"out"}}"#;
        assert_eq!(line, expected, "a request");
        let back: Request = serde_json::from_str(&line).expect("a request");
        assert!(matches!(back, Request::Prepare { work: w, .. } if w == Work::Gemm(work)), "back");
        let version = serde_json::to_string(&Request::Version {}).expect("JSON");
        assert_eq!(version, r#"{"version":{}}"#, "a request without arguments");
        let answer: Answer = serde_json::from_str(r#"{"ready": {}}"#).expect("an answer");
        assert_eq!(answer, Answer::Ready {}, "an answer");
        let times: Answer = serde_json::from_str(r#"{"times": [0.5, 1e-3]}"#).expect("an answer");
        assert_eq!(times, Answer::Times(vec![0.5, 1e-3]), "times");
    }
}

//! Tells the program which commit and compiler it is made with, for its reports.

use std::path::Path;
use std::process::Command;

fn main() {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        text.lines().next().map(str::to_owned)
    };
    let unknown = || "unknown".to_owned();
    // Not from a checkout (a package, say) there is no commit.
    let describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let commit = first_line("git", &describe).unwrap_or_else(unknown);
    println!("cargo::rustc-env=KERNELET_COMMIT={commit}");
    if let Some(head) = first_line("git", &["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&head).exists()
    {
        println!("cargo::rerun-if-changed={head}");
    }
    for changed in ["build.rs", "src", "../src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={changed}");
    }
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let compiler = first_line(&compiler, &["--version"]).unwrap_or_else(unknown);
    println!("cargo::rustc-env=KERNELET_RUSTC={compiler}");
}

//! A contestant from outside: a process that is asked, and stopped while others have their turn.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt::Interrupt;
use crate::protocol::{Answer, Request};

/// How often a wait looks whether it is interrupted.
const GLANCE: Duration = Duration::from_millis(200);

/// A running contestant, stopped but for the time of an [`ask`](Self::ask). Dropped, it ends.
pub struct Process {
    child: Child,
    group: Pid,
    requests: ChildStdin,
    answers: Receiver<String>,
    interrupt: Interrupt,
    /// What it prints beside its answers.
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, with what it prints going to `log`.
    pub fn start(mut command: Command, log: &Path, interrupt: &Interrupt) -> Result<Self> {
        let errors = File::create(log).context("its log cannot be written")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut child = command.spawn().context("it cannot be started")?;
        let group = Pid::from_child(&child);
        let (requests, answers) =
            child.stdin.take().zip(child.stdout.take()).context("no pipes")?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let interrupt = interrupt.clone();
        Ok(Self { child, group, requests, answers: receiver, interrupt, log: log.to_owned() })
    }

    /// Lets it go on, asks, waits for the answer, and stops it again. An error means that it is no
    /// longer to be relied on.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Answer> {
        self.signal(Signal::CONT)?;
        let line = serde_json::to_string(request)?;
        let sent = writeln!(self.requests, "{line}").and_then(|()| self.requests.flush());
        let answer = match sent {
            Ok(()) => self.wait(limit)?,
            Err(_) => bail!("it has ended{}", self.last_words()),
        };
        self.signal(Signal::STOP)?;
        serde_json::from_str(&answer).with_context(|| format!("it answered {answer:?}"))
    }

    fn wait(&self, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => bail!("it has ended{}", self.last_words()),
                Err(RecvTimeoutError::Timeout) => self.interrupt.check()?,
            }
            if start.elapsed() > limit {
                bail!("it did not answer within {} s", limit.as_secs());
            }
        }
    }

    /// The last line of what it printed.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .rfind(|line| !line.trim().is_empty())
            .map(|line| format!(": {line}"))
            .unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.group, signal).map_err(|error| anyhow!("no signal to it: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

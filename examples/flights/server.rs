//! A server process that can be killed and started again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Error;

/// A server process. Killed when it goes out of scope.
pub(crate) struct Server {
    binary: PathBuf,
    data_dir: PathBuf,
    child: Child,
    /// Where the API is served; the same after a restart.
    pub(crate) address: String,
    /// What the server said when it was ready.
    pub(crate) greeting: String,
}

impl Server {
    /// Starts a server on a free port and waits until it serves.
    pub(crate) fn start(binary: PathBuf, data_dir: &Path) -> Result<Self, Error> {
        let (child, greeting) = serve(&binary, data_dir, "127.0.0.1:0")?;
        let address = greeting.split("serving gRPC on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.ok_or_else(|| format!("unexpected first line {greeting:?}"))?.to_owned();
        Ok(Self { binary, data_dir: data_dir.to_owned(), child, address, greeting })
    }

    /// Kills the server with SIGKILL and starts another on the same data and port.
    pub(crate) fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.child.kill()?;
        self.child.wait()?;
        (self.child, self.greeting) = serve(&self.binary, &self.data_dir, &self.address)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(binary: &Path, data_dir: &Path, listen: &str) -> Result<(Child, String), Error> {
    let mut child = Command::new(binary)
        .args(["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0", "--log-level", "error"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.is_empty() {
        let status = child.wait()?;
        return Err(format!("{} did not serve and ended with {status}", binary.display()).into());
    }
    Ok((child, line.trim_end().to_owned()))
}

//! Standard output that may go away (`bessemer status | head`): what is written after that is dropped, the work goes on.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};

#[derive(Debug)]
pub struct Out {
    to: BufWriter<Stdout>,
    closed: bool,
    failed: Option<io::Error>,
}

impl Out {
    pub fn new() -> Self {
        Self { to: BufWriter::new(io::stdout()), closed: false, failed: None }
    }

    pub fn line(&mut self, text: impl Display) {
        self.write(format_args!("{text}\n"));
    }

    /// Text that ends its own lines.
    pub fn text(&mut self, text: impl Display) {
        self.write(format_args!("{text}"));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        if !self.closed {
            let result = self.to.write_all(bytes);
            self.took(result);
        }
    }

    fn write(&mut self, text: std::fmt::Arguments) {
        if !self.closed {
            let result = self.to.write_fmt(text);
            self.took(result);
        }
    }

    /// Makes everything visible; to be called before waiting for something.
    ///
    /// # Errors
    /// The first failure of any write but a closed pipe.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.closed {
            let result = self.to.flush();
            self.took(result);
        }
        match &self.failed {
            Some(e) => Err(io::Error::new(e.kind(), e.to_string())),
            None => Ok(()),
        }
    }

    /// Nobody reads any more: time for endless commands to leave.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn took(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => {}
            Err(e) => {
                self.closed = true;
                if e.kind() != io::ErrorKind::BrokenPipe {
                    self.failed = Some(e);
                }
            }
        }
    }
}

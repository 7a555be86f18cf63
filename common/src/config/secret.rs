//! A text that must not show up in logs, dumps or error messages.

use std::fmt;

use zeroize::Zeroizing;

/// A secret such as the token. It is wiped from memory when dropped and prints as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Callers hand it to cryptography, never to a formatter.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no secret was configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An empty secret is worth seeing: it explains a refused login.
        f.write_str(if self.is_empty() { "(empty)" } else { "***" })
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Secret::default()), "*** (empty)");
        assert_eq!(secret.expose(), "hunter2");
    }
}

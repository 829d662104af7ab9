//! Where a line's pictures and sound go. Each output knows one foreign library, or none.

/// Which output a line has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// An NDI® source on the studio's network.
    #[default]
    Ndi,
    /// Counts, and notes when.
    Null,
}

/// What the lines' outputs share: the NDI library, loaded once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outputs {}

impl Outputs {
    /// Loads the NDI runtime; without one, lines run with the null output and [`Self::ndi_error`] says why.
    pub fn load(_settings: &NdiSettings) -> Self {
        Self {}
    }

    /// No NDI: every line gets the null output.
    pub fn null_only() -> Self {
        Self {}
    }

    /// What was tried and where to get the runtime, if it could not be loaded.
    pub fn ndi_error(&self) -> Option<String> {
        None
    }

    /// The version of the NDI runtime in use.
    pub fn ndi_version(&self) -> Option<String> {
        None
    }
}

/// What can be set for all NDI sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NdiSettings {
    /// Groups the sources belong to, separated by commas; `None` is the public group.
    pub groups: Option<String>,
}

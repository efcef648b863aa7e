//! Placeholder of the vectorised first stage.
/// Which instructions the scan may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Level {
    /// None beyond the target's own.
    #[default]
    Portable,
}

//! What only an administrator may have done (SPEC.md, "Admin commands").

/// The proof that an administrator may have this done. Nothing makes it but a signed command of his.
#[derive(Debug)]
pub struct AdminPermit(());

#[cfg(test)]
impl AdminPermit {
    /// A permit for tests of what needs one.
    pub(crate) const fn known() -> Self {
        Self(())
    }
}

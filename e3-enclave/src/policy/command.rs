//! `e3 policy …`: for those who write and sign policies.

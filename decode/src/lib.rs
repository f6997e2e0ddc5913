//! Handshake, pull, verify, generate; and the churn source.

//! Watches memory: sampler, estimator, verdict, signatures, scenarios.

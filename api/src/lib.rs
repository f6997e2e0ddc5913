//! Pure data shared by all parts of pdlab.

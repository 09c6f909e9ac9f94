//! Python module `qatrack_ext._native`.

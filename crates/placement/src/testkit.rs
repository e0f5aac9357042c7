//! Fleets in a line of text, for tests.

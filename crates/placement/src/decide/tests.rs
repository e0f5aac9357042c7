//! Decisions as tables: a fleet in a line, a request, and where it goes.

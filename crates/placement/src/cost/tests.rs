//! The price of a request, by hand.

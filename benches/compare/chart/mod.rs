//! What is drawn: rates beside each other, and how the cost grows.

mod growth;
mod rates;

pub(crate) use growth::draw as growth;
pub(crate) use rates::draw as rates;

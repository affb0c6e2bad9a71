//! How things look: numbers, wrapping, tables, documents. Knows nothing of studies or results.

pub mod document;
pub mod number;
pub mod table;
pub mod wrap;

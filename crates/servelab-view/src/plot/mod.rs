//! Plots as SVG by our own writer, so that they need no font, no library and no network to be read; PNG by rendering that
//! SVG. Marks carry their values as tooltips.

mod png;
mod scaling;
mod svg;

pub use png::{PngError, svg_to_png};
pub use scaling::scaling_svg;
pub(crate) use svg::{Anchor, Svg, escape};

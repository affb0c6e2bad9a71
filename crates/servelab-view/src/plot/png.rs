//! SVG to PNG with a font that travels with the program (a part of DejaVu Sans), so that a picture is the same on every
//! machine.

use resvg::{tiny_skia, usvg};

/// Latin letters, digits and the signs that plots use; its licence is beside it.
const FONT: &[u8] = include_bytes!("../../data/DejaVuSans-subset.ttf");
const FAMILY: &str = "DejaVu Sans";

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PngError(String);

impl std::fmt::Display for PngError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "draw the picture: {}", self.0)
    }
}

impl std::error::Error for PngError {}

/// Renders an SVG of ours, `scale` pixels for each of its units.
///
/// # Errors
/// When it is no SVG or too large to draw.
pub fn svg_to_png(svg: &str, scale: f32) -> Result<Vec<u8>, PngError> {
    let mut options = usvg::Options { font_family: FAMILY.to_owned(), ..usvg::Options::default() };
    options.fontdb_mut().load_font_data(FONT.to_vec());
    options.fontdb_mut().set_sans_serif_family(FAMILY);
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| PngError(error.to_string()))?;
    let size = tree.size().to_int_size().scale_by(scale).ok_or_else(|| PngError("it has no size".to_owned()))?;
    const MOST: u32 = 16_384;
    if size.width() > MOST || size.height() > MOST {
        return Err(PngError(format!("{} × {} pixels are too many", size.width(), size.height())));
    }
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())
        .ok_or_else(|| PngError("there is no memory for it".to_owned()))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| PngError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_without_any_font_of_the_machine() {
        let svg = |text: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"60\" height=\"20\" font-family=\"DejaVu Sans\">\
                 <text x=\"2\" y=\"14\">{text}</text></svg>"
            )
        };
        let (empty, written) = (svg_to_png(&svg(""), 2.0).unwrap(), svg_to_png(&svg("GPUs"), 2.0).unwrap());
        assert!(empty.starts_with(b"\x89PNG") && written.starts_with(b"\x89PNG"));
        assert_ne!(empty, written);
        assert_eq!(written, svg_to_png(&svg("GPUs"), 2.0).unwrap(), "the same every time");
    }

    #[test]
    fn what_is_no_picture_is_said() {
        assert!(svg_to_png("<html>", 1.0).unwrap_err().to_string().starts_with("draw the picture: "));
        let huge = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"99999\" height=\"9\"/>";
        assert!(svg_to_png(huge, 2.0).unwrap_err().to_string().contains("too many"));
    }
}

//! Charts in SVG, for documents that are read on light ground and on dark.

/// Width of every chart, in the pixels that all lengths are in.
pub const WIDTH: f64 = 760.0;
pub const MARGIN: f64 = 10.0;

/// There is no ground of its own. The grey of the text can be read on light and on
/// dark; where the reader's choice is known there is more contrast.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#6e7781}\
.head{font-weight:600}\
.ours{fill:#2f7de1}\
.others{fill:#8c959f}\
.curve{fill:none;stroke:#2f7de1;stroke-width:2}\
.curve-of-others{fill:none;stroke:#8c959f;stroke-width:2}\
.axis{stroke:#8c959f;stroke-width:1}\
.spread{stroke:#d4760a;stroke-width:1.5}\
@media(prefers-color-scheme:light){text{fill:#424a53}}\
@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}";

/// A whole file around what was drawn down to `bottom`; `None`: that is nothing.
pub fn file(drawn: &str, bottom: f64, what: &str) -> Option<String> {
    let height = bottom + MARGIN;
    (!drawn.is_empty()).then(|| {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{what}\">\n\
             <style>{STYLE}</style>\n{drawn}</svg>\n"
        )
    })
}

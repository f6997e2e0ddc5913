//! The page around the content, and its recurring parts. Everything that goes in is escaped;
//! what could still get through would find that the page's own policy allows neither scripts nor
//! requests.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::svg::{Frame, NARROW, WIDE, drawing};

const STYLE: &str = include_str!("style.css");

/// How a page of ours is known again, so that nothing else is ever overwritten.
const GENERATOR: &str = "pdlab report";

/// No scripts, no requests: styles and the empty icon are all that the page has.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// A whole page.
pub(super) fn page(title: &str, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="generator" content=(GENERATOR);
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                // Without one a browser asks the server for /favicon.ico.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (content) }
                footer { "Made by pdlab " (env!("CARGO_PKG_VERSION")) ". The page needs no network." }
            }
        }
    };
    page.into_string()
}

/// Whether `text` begins as a page of ours does.
pub fn is_page(text: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&text[..text.len().min(512)]);
    head.contains(&format!(r#"<meta name="generator" content="{GENERATOR}">"#))
}

/// A drawing in its wide and its narrow form, one of which is shown, above its caption.
pub(super) fn figure(
    id: &str,
    title: &str,
    spoken: &str,
    caption: &Markup,
    draw: impl Fn(&Frame) -> Markup,
) -> Markup {
    html! {
        figure id=(id) {
            @for frame in [&WIDE, &NARROW] { (drawing(frame, id, title, spoken, &draw(frame))) }
            figcaption { (caption) }
        }
    }
}

/// Drawings that are made already, above their caption.
pub(super) fn figure_of(id: &str, drawings: &Markup, caption: &Markup) -> Markup {
    html! { figure id=(id) { (drawings) figcaption { (caption) } } }
}

/// A table whose rows become cards on a phone: each cell carries the name of its column.
pub(super) fn table(caption: &str, columns: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        table class="cards" {
            caption { (caption) }
            thead { tr { @for column in columns { th scope="col" { (column) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (i, (cell, column)) in row.iter().zip(columns).enumerate() {
                            @if i == 0 { th scope="row" { (cell) } }
                            @else { td data-column=(column) { div { (cell) } } }
                        }
                    }
                }
            }
        }
    }
}

/// A box with a list of things that the reader must know, if there are any. `class` says how bad
/// they are.
pub(super) fn notice(class: &str, title: &str, items: &[String]) -> Markup {
    html! {
        @if !items.is_empty() {
            section class=(format!("notice {class}")) {
                h2 { (title) }
                ul { @for item in items { li { (prose(item)) } } }
            }
        }
    }
}

/// An entry of a legend: what is drawn in the way of `class` is `text`.
pub(super) fn key(class: &str, text: &str) -> Markup {
    html! { span class="entry" { span class=(format!("key {class}")) {} (text) } " " }
}

/// A term and what it is, in a `dl`.
pub(super) fn fact(term: &str, text: &Markup) -> Markup {
    html! { div { dt { (term) } dd { (text) } } }
}

/// A link to the web; what is no web address stays text.
pub(super) fn link(url: &str, text: &str) -> Markup {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    html! {
        @if is_web { a href=(url) rel="noreferrer" { (text) } }
        @else { (text) }
    }
}

/// Text whose web addresses are links.
pub(super) fn prose(text: &str) -> Markup {
    html! {
        @for (i, word) in text.split(' ').enumerate() {
            @if i > 0 { " " }
            (linked(word))
        }
    }
}

/// A word that may be an address in brackets or before a full stop.
fn linked(word: &str) -> Markup {
    let Some(start) = word.find("https://").or_else(|| word.find("http://")) else {
        return html! { (word) };
    };
    let (before, rest) = word.split_at(start);
    let end = rest.trim_end_matches(|c: char| ").,;:!?".contains(c)).len();
    let (url, after) = rest.split_at(end);
    html! { (before) (link(url, url)) (after) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::heat::contrast;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_links_and_nothing_else_is() {
        let text = prose("See (https://example.org/a?b=1&c=2), or x.").into_string();
        let anchor = r#"<a href="https://example.org/a?b=1&amp;c=2" rel="noreferrer">https://example.org/a?b=1&amp;c=2</a>"#;
        assert_eq!(text, format!("See ({anchor}), or x."));
        assert_eq!(link("javascript:alert(1)", "bug").into_string(), "bug");
    }

    #[test]
    fn a_page_is_known_again() {
        let page = page("x", &html! { p { "y" } });
        assert!(is_page(page.as_bytes()));
        assert!(!is_page(b"<!DOCTYPE html><html>") && !is_page(b"") && !is_page(b"{}"));
    }

    #[test]
    fn text_can_be_read_in_light_and_in_dark() {
        let themes: Vec<&str> = STYLE.split(":root {").skip(1).collect();
        assert_eq!(themes.len(), 2, "light and dark");
        for theme in themes {
            let colour = |name: &str| {
                let at = theme.find(&format!("--{name}: #")).unwrap_or_else(|| panic!("{name}"));
                &theme[at + name.len() + 4..at + name.len() + 11]
            };
            for text in ["ink", "soft", "link", "leak", "clean", "doubt", "fit"] {
                for back in ["paper", "panel"] {
                    let ratio = contrast(colour(text), colour(back));
                    assert!(ratio >= 4.5, "{text} on {back}: {ratio:.2}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn prose_keeps_every_letter_and_makes_no_markup(text in "\\PC{0,80}") {
            let page = prose(&text).into_string();
            let bare = page.replace(" rel=\"noreferrer\"", "");
            prop_assert_eq!(bare.matches('<').count(), 2 * bare.matches("<a href=").count());
        }
    }
}

//! The reader of Markdown pages: anchors, links, blocks, sections.

use std::collections::BTreeSet;

use crate::support::markdown::{Page, slug};

#[test]
fn anchors_follow_the_rules_of_github() {
    for (heading, anchor) in [
        ("TerraceDown", "terracedown"),
        ("What's new? (2026)", "whats-new-2026"),
        ("`l1.size` and `l2.url`", "l1size-and-l2url"),
        ("See [the guide](guide.md)", "see-the-guide"),
        ("one_two - three", "one_two---three"),
    ] {
        assert_eq!(slug(heading), anchor);
    }
    let text = "# A\n\n```sh\n# no heading\n```\n\n## A\n\ntext [l](x.md#y) `[no](z)`\n\n### B c\n";
    let page = Page { path: "a.md".into(), text: text.into() };
    assert_eq!(page.anchors(), BTreeSet::from(["a", "a-1", "b-c"].map(str::to_owned)));
    assert_eq!(page.links(), [(9, "x.md#y".to_owned())]);
    assert_eq!(page.blocks_of("sh"), ["# no heading\n"]);
    assert!(page.section("b-c").is_some() && page.section("c").is_none());
}

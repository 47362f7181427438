//! The simulator against figures that are known.

use std::io::Write;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn played(trace: &str, flags: &str) -> Vec<Run> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(trace.as_bytes()).expect("written");
    let words = ["simulate", file.path().to_str().expect("a path")].into_iter().chain(flags.split(' '));
    simulate(&Command::parse_from(words).args).expect("a good trace")
}

fn misses(trace: &str, flags: &str) -> Vec<u64> {
    played(trace, flags).iter().map(|run| run.misses).collect()
}

#[test]
fn lru_over_a_loop_misses_every_time_until_it_fits() {
    let trace: String = (0..40).map(|n| format!("{n},k{},1\n", n % 4)).collect();
    assert_eq!(misses(&trace, "--entries 3,4,50%,100% --l1-policy lru"), [40, 4, 40, 4]);
}

#[test]
fn entries_expire_as_told() {
    let trace = "0,a,1,5\n4,a,1,5\n5,a,1,5\n9,a,1\n10,a,1\n99,a,1\n";
    assert_eq!(misses(trace, "--entries 1"), [1]);
    assert_eq!(misses(trace, "--entries 1 --ttl recorded"), [3], "at 0, 5 and 10, where none is given");
    assert_eq!(misses(trace, "--entries 1 --ttl 1.5"), [4]);
}

#[test]
fn bytes_count_by_weight_and_what_is_too_large_is_never_kept() {
    let trace: String =
        (0..100).map(|n| format!("{n},k{},{}\n", n % 10, if n % 10 == 0 { 2000 } else { 10 })).collect();
    assert_eq!(misses(&trace, "--l1-size 8KiB,1MiB"), [9 + 10, 10]);
}

#[test]
fn json_lines_have_the_fields_that_were_promised() {
    let runs = played("0,a,1\n1,a,1\n", "--entries 2 --l1-size 1MiB --l1-policy lru");
    assert_eq!(
        runs[0].json("t"),
        json!({ "trace": "t", "policy": "lru", "entries": 2, "requests": 2, "misses": 1, "miss_ratio": 0.5 })
    );
    assert_eq!(runs[1].json("t")["bytes"], json!(1 << 20));
}

#[test]
fn bad_flags_say_what_is_right() {
    for flags in ["--entries 0", "--entries 101%", "--entries x", "--l1-size 0", "--entries 1 --ttl -1", ""] {
        let words = ["simulate", "t"].into_iter().chain(flags.split_terminator(' '));
        assert!(Command::try_parse_from(words).is_err(), "{flags}");
    }
}

#[test]
fn the_plot_has_a_point_for_each_run() {
    let drawing = plot::draw("a<b", &played("0,a,1\n1,b,1\n", "--entries 1,2 --l1-size 1MiB,2MiB"));
    assert_eq!(drawing.matches("<circle").count(), 4);
    assert!(drawing.contains("a&lt;b") && drawing.ends_with("</svg>\n"));
}

//! State, keyboard commands and drawing of `terrace top`. Independent of a terminal and a server, so that tests can use
//! fixed values.

use ratatui::{
    Frame,
    crossterm::event::KeyCode,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Table},
};

use super::super::{
    figures::{bytes, count, key, micros, percent, span},
    stats::{
        loads,
        tables::{named, per_second, removed, total},
    },
};
use crate::proto::{GetStatsResponse, ReadStats, SimulateCapacityResponse, TopBy, TopKeysResponse, WindowStats};

/// Minimum terminal width for showing groups and keys next to each other.
const WIDE: u16 = 120;
/// Maximum length of the filter in `terrace top`, in characters.
const FILTER_MAX: usize = 60;

/// Sort column of the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Reads,
    L1,
    Misses,
    Entries,
    Bytes,
    Name,
}

const SORTS: [(Sort, &str); 6] = [
    (Sort::Reads, "reads/s"),
    (Sort::L1, "L1"),
    (Sort::Misses, "misses"),
    (Sort::Entries, "entries"),
    (Sort::Bytes, "bytes"),
    (Sort::Name, "name"),
];
const RANKINGS: [TopBy; 4] = super::super::stats::RANKINGS;

/// Received data and the choices of the user.
pub(super) struct State {
    server: String,
    stats: GetStatsResponse,
    /// Uptime and reads of the previous message.
    before: Option<(i64, ReadStats)>,
    /// Length of the last interval in ms, and its number of reads.
    lately: Option<(i64, u64)>,
    top: TopKeysResponse,
    capacity: SimulateCapacityResponse,
    window: usize,
    sort: usize,
    reversed: bool,
    ranking: usize,
    filter: String,
    is_typing: bool,
}

impl State {
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            stats: GetStatsResponse::default(),
            before: None,
            lately: None,
            top: TopKeysResponse::default(),
            capacity: SimulateCapacityResponse::default(),
            window: 0,
            sort: 0,
            reversed: false,
            ranking: 0,
            filter: String::new(),
            is_typing: false,
        }
    }

    /// Stores the statistics of a new message.
    pub(super) fn took(&mut self, stats: GetStatsResponse) {
        let reads = stats.reads.unwrap_or_default();
        self.lately = self
            .before
            .map(|(uptime, before)| (stats.uptime_ms - uptime, total(&reads).saturating_sub(total(&before))));
        self.before = Some((stats.uptime_ms, reads));
        self.stats = stats;
    }

    /// Stores the responses of the additional requests.
    pub(super) fn asked(&mut self, top: TopKeysResponse, capacity: SimulateCapacityResponse) {
        (self.top, self.capacity) = (top, capacity);
    }

    /// Returns the selected key ranking.
    pub(super) fn by(&self) -> TopBy {
        RANKINGS[self.ranking % RANKINGS.len()]
    }

    /// Handles a key press. Returns `true` to quit.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys do nothing")]
    pub(super) fn pressed(&mut self, code: KeyCode) -> bool {
        if self.is_typing {
            self.typed(code);
            return false;
        }
        match code {
            KeyCode::Char('q') => return true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') => self.sort = (self.sort + 1) % SORTS.len(),
            KeyCode::Char('S') => self.sort = (self.sort + SORTS.len() - 1) % SORTS.len(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('k') => self.ranking = (self.ranking + 1) % RANKINGS.len(),
            KeyCode::Char('w') => self.window = (self.window + 1) % self.stats.windows.len().max(1),
            KeyCode::Char('/') => self.is_typing = true,
            _ => {}
        }
        false
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys do nothing")]
    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.chars().count() < FILTER_MAX => self.filter.push(letter),
            _ => {}
        }
    }

    fn window(&self) -> Option<&WindowStats> {
        self.stats.windows.get(self.window)
    }
}

/// Draws a state.
pub(super) struct Screen<'s>(pub(super) &'s State);

/// One row of the group table.
struct Shown<'s> {
    name: &'s str,
    reads: ReadStats,
    left: u64,
    entries: u64,
    bytes: u64,
}

impl<'s> Screen<'s> {
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let lines = self.head();
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let rows = [Constraint::Length(height), Constraint::Min(0), Constraint::Length(1)];
        let [head, middle, foot] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(Paragraph::new(lines), head);
        let halves = if middle.width >= WIDE {
            Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).spacing(2)
        } else {
            Layout::vertical([Constraint::Percentage(55), Constraint::Percentage(45)])
        };
        let [groups, keys] = halves.areas(middle);
        self.groups(frame, groups);
        self.keys(frame, keys);
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let stats = &self.0.stats;
        let (l1, l2) = (stats.l1.unwrap_or_default(), stats.l2.clone().unwrap_or_default());
        let is_open = stats.coherence.as_ref().is_some_and(|coherence| coherence.open);
        let full = (l1.capacity_bytes > 0).then(|| l1.bytes as f64 / l1.capacity_bytes as f64);
        let now = self.0.lately.map_or_else(|| "-".to_owned(), |(ms, reads)| count(per_second(reads, ms)));
        let up = |text: String, is_well: bool| if is_well { text.green() } else { text.red().bold() };
        let mut lines = vec![
            Line::from(vec![
                Span::from("terrace ").bold(),
                Span::from(format!("{}  up {}  ", self.0.server, span(stats.uptime_ms))),
                up(format!("L1 {}", if is_open { "in use" } else { "bypassed" }), is_open),
                Span::from(format!(", {} of {}  ", percent(full), bytes(l1.capacity_bytes))),
                up(format!("L2 {} {}", l2.kind, if l2.up { "up" } else { "down" }), l2.up),
            ]),
            Line::from(vec![Span::from(format!("{now} reads/s now")).bold(), Span::from(self.rates())]),
            Line::from(self.l2()),
            Line::from(self.sizes()),
            Line::from(self.learned()),
        ];
        lines.extend(loads::summary(stats).map(Line::from));
        lines
    }

    /// Formats the counts of the selected window.
    fn rates(&self) -> String {
        let Some(window) = self.0.window() else { return String::new() };
        let reads = window.reads.unwrap_or_default();
        format!(
            "  {}: {}/s  L1 {}  L2 {}  misses {}/s  errors {}",
            window.name,
            count(per_second(total(&reads), window.over_ms)),
            percent(reads.l1_hit_rate),
            percent(reads.l2_hit_rate),
            count(per_second(reads.miss, window.over_ms)),
            count(reads.error as f64),
        )
    }

    fn l2(&self) -> String {
        let (l2, connections) =
            (self.0.stats.l2.clone().unwrap_or_default(), self.0.stats.connections.unwrap_or_default());
        let read = self.0.window().and_then(|window| window.l2_read).unwrap_or_default();
        let write = self.0.window().and_then(|window| window.l2_write).unwrap_or_default();
        format!(
            "L2 read p50 {} p99 {}  write p99 {}  errors {}  clients {}",
            micros(read.p50_us),
            micros(read.p99_us),
            micros(write.p99_us),
            count(l2.errors as f64),
            connections.grpc + connections.resp,
        )
    }

    fn sizes(&self) -> String {
        let sizes = self.0.capacity.sizes.iter().map(|size| format!("  {}x {}", size.scale, percent(size.l1_hit_rate)));
        format!("L1 at{}", sizes.collect::<String>())
    }

    fn learned(&self) -> String {
        let learning = self.0.stats.learning.unwrap_or_default();
        let (ahead, over_ms) = self.0.window().map_or((None, 0), |window| (window.prefetch, window.over_ms));
        let ahead = ahead.unwrap_or_default();
        let wanted = ahead.used + ahead.late;
        let ended = wanted + ahead.wasted;
        let threshold =
            if learning.floor > 1.0 { "paused".to_owned() } else { percent(Some(f64::from(learning.floor))) };
        format!(
            "learned keys {}  prefetches {}/s  used {}  threshold {threshold}  TTL advice {}",
            count(learning.known_keys as f64),
            count(per_second(ahead.issued, over_ms)),
            percent((ended > 0).then(|| wanted as f64 / ended as f64)),
            count(learning.ttl_templates as f64),
        )
    }

    fn shown(&self) -> Vec<Shown<'s>> {
        let state: &'s State = self.0;
        let counted = |name: &str| {
            let groups = state.window().map_or(&[][..], |window| &window.groups);
            groups.iter().find(|group| group.name == name)
        };
        let mut groups: Vec<Shown<'s>> = state
            .stats
            .groups
            .iter()
            .filter(|held| held.name.contains(&state.filter))
            .map(|held| Shown {
                name: &held.name,
                reads: counted(&held.name).and_then(|group| group.reads).unwrap_or_default(),
                left: counted(&held.name).and_then(|group| group.removed).map_or(0, |gone| removed(&gone)),
                entries: held.entries,
                bytes: held.bytes,
            })
            .filter(|group| group.entries > 0 || total(&group.reads) > 0)
            .collect();
        let rate = |group: &Shown<'_>| group.reads.l1_hit_rate.unwrap_or(-1.0);
        match SORTS[state.sort].0 {
            Sort::Reads => groups.sort_by_key(|group| std::cmp::Reverse(total(&group.reads))),
            Sort::L1 => groups.sort_by(|a, b| rate(b).total_cmp(&rate(a))),
            Sort::Misses => groups.sort_by_key(|group| std::cmp::Reverse(group.reads.miss)),
            Sort::Entries => groups.sort_by_key(|group| std::cmp::Reverse(group.entries)),
            Sort::Bytes => groups.sort_by_key(|group| std::cmp::Reverse(group.bytes)),
            Sort::Name => groups.sort_by(|a, b| a.name.cmp(b.name)),
        }
        if state.reversed {
            groups.reverse();
        }
        groups
    }

    fn groups(&self, frame: &mut Frame<'_>, area: Rect) {
        let over_ms = self.0.window().map_or(0, |window| window.over_ms);
        let name_width = usize::from(area.width.saturating_sub(63)).max(10);
        let rows = self.shown().into_iter().map(|group| {
            Row::new([
                key(group.name.as_bytes(), name_width),
                right(&count(per_second(total(&group.reads), over_ms)), 8),
                right(&percent(group.reads.l1_hit_rate), 8),
                right(&percent(group.reads.l2_hit_rate), 8),
                right(&count(group.reads.miss as f64), 7),
                right(&count(group.entries as f64), 7),
                right(&bytes(group.bytes), 8),
                right(&count(group.left as f64), 7),
            ])
        });
        let widths = [8, 8, 8, 7, 7, 8, 7].map(Constraint::Length);
        let widths = std::iter::once(Constraint::Min(10)).chain(widths);
        let head = ["group", " reads/s", "      L1", "      L2", " misses", "entries", "   bytes", "removed"];
        let title =
            format!("key groups by {}{}", SORTS[self.0.sort].1, if self.0.reversed { ", reversed" } else { "" });
        let table = Table::new(rows, widths).header(Row::new(head).style(Style::new().bold())).column_spacing(1);
        frame.render_widget(table.block(Block::new().borders(Borders::TOP).title(title)), area);
    }

    fn keys(&self, frame: &mut Frame<'_>, area: Rect) {
        let (name, shown) = named(self.0.by());
        let top = &self.0.top;
        let name_width = usize::from(area.width.saturating_sub(22)).max(10);
        let wanted = top
            .keys
            .iter()
            .filter(|entry| self.0.filter.is_empty() || String::from_utf8_lossy(&entry.key).contains(&self.0.filter));
        let rows = wanted.map(|entry| {
            let part = (top.total > 0).then(|| entry.number as f64 / top.total as f64);
            Row::new([key(&entry.key, name_width), right(&shown(entry.number), 10), right(&percent(part), 8)])
        });
        let widths = [Constraint::Min(10), Constraint::Length(10), Constraint::Length(8)];
        let head = ["key".to_owned(), right(name, 10), right("share", 8)];
        let title = format!("keys by {name}, {}, error at most {}", span(top.over_ms), shown(top.error));
        let table = Table::new(rows, widths).header(Row::new(head).style(Style::new().bold())).column_spacing(1);
        frame.render_widget(table.block(Block::new().borders(Borders::TOP).title(title)), area);
    }

    fn foot(&self) -> Line<'static> {
        let state = self.0;
        if state.is_typing {
            return Line::from(format!("filter: {}_   Enter applies, Esc clears", state.filter));
        }
        let filter = if state.filter.is_empty() { String::new() } else { format!("  filter {:?}", state.filter) };
        Line::from(format!("q quit  s sort  r reverse  k ranking  w window  / filter{filter}")).dim()
    }
}

fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::proto::{GroupStats, GroupWindow, L2Stats, LearningStats, LoadStats, PrefetchCounts, TopKey};

    fn state() -> State {
        let names = ["user:{d}:cart", "session:*", "other"];
        let reads = |hit_l1, miss| {
            let whole = (hit_l1 + miss) as f64;
            ReadStats { hit_l1, miss, l1_hit_rate: Some(hit_l1 as f64 / whole), ..ReadStats::default() }
        };
        let counted = [reads(900, 100), reads(10, 90), reads(1, 1)];
        let groups = names.iter().zip(counted).map(|(name, reads)| GroupWindow {
            name: (*name).to_owned(),
            reads: Some(reads),
            removed: None,
        });
        let window = WindowStats {
            name: "1m".into(),
            over_ms: 10_000,
            reads: Some(reads(911, 191)),
            groups: groups.collect(),
            prefetch: Some(PrefetchCounts { issued: 50, used: 29, late: 1, wasted: 10, shadow: 0 }),
            ..WindowStats::default()
        };
        let held = names.iter().zip([5, 50, 500]);
        let stats = GetStatsResponse {
            uptime_ms: 75_000,
            reads: Some(reads(911, 191)),
            learning: Some(LearningStats { known_keys: 12, floor: 0.5, ..LearningStats::default() }),
            l2: Some(L2Stats { kind: "redis".into(), up: true, ..L2Stats::default() }),
            windows: vec![window],
            groups: held
                .map(|(name, entries)| GroupStats { name: (*name).into(), entries, bytes: entries * 100, loads: None })
                .collect(),
            ..GetStatsResponse::default()
        };
        let mut state = State::new("127.0.0.1:7400");
        state.took(stats);
        let keys =
            vec![TopKey { key: "user:7:cart".into(), number: 450 }, TopKey { key: "session:9".into(), number: 5 }];
        state.asked(
            TopKeysResponse { keys, error: 0, total: 1_102, over_ms: 60_000 },
            SimulateCapacityResponse::default(),
        );
        state
    }

    fn drawn(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
        terminal.draw(|frame| Screen(state).draw(frame)).expect("it draws");
        let cells = terminal.backend().buffer().content.chunks(usize::from(width.max(1)));
        let lines = cells.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Returns the names of the groups in display order.
    fn order(state: &State) -> Vec<&str> {
        Screen(state).shown().iter().map(|group| group.name).collect()
    }

    const LEARNED: &str = "learned keys 12  prefetches 5/s  used 75.0 %  threshold 50.0 %  TTL advice 0";

    #[test]
    fn it_fits_small_and_large_terminals() {
        let state = state();
        for (width, height) in [(80, 24), (160, 50)] {
            let picture = drawn(&state, width, height);
            for part in
                ["up 1m 15s", "L2 redis up", "user:{d}:cart", "90.0 %", "session:*", "user:7:cart", "q quit", LEARNED]
            {
                assert!(picture.contains(part), "{part} at {width} x {height}:\n{picture}");
            }
        }
        for (width, height) in [(1, 1), (10, 3), (40, 8), (500, 2)] {
            drawn(&state, width, height);
        }
        drawn(&State::new("nobody"), 80, 24);
    }

    #[test]
    fn loads_have_a_line_once_there_are_any() {
        let mut state = state();
        assert!(!drawn(&state, 80, 24).contains("loads"));
        let loads = LoadStats {
            granted_miss: 3,
            granted_stale: 2,
            load_failed: 1,
            mean_ms: Some(20.0),
            p99_ms: Some(40.0),
            origin_seconds_saved: 7_500.0,
            ..LoadStats::default()
        };
        state.took(GetStatsResponse { loads: Some(loads), load_waiters: 4, ..state.stats.clone() });
        let line = "loads 5  failed 1  waiting 4  mean 20.0ms  p99 40.0ms  origin time saved 2h 5m";
        let picture = drawn(&state, 80, 24);
        assert!(picture.contains(line) && picture.contains(LEARNED), "{picture}");
    }

    #[test]
    fn keys_sort_turn_round_and_filter() {
        let mut state = state();
        assert_eq!(order(&state), ["user:{d}:cart", "session:*", "other"]);
        (0..3).for_each(|_| assert!(!state.pressed(KeyCode::Char('s'))));
        assert_eq!(order(&state), ["other", "session:*", "user:{d}:cart"], "by entries");
        state.pressed(KeyCode::Char('r'));
        assert_eq!(order(&state)[0], "user:{d}:cart");
        state.pressed(KeyCode::Char('/'));
        "sesq".chars().for_each(|letter| assert!(!state.pressed(KeyCode::Char(letter)), "q is a letter here"));
        state.pressed(KeyCode::Backspace);
        state.pressed(KeyCode::Enter);
        assert_eq!(order(&state), ["session:*"]);
        assert!(drawn(&state, 80, 24).contains("filter \"ses\"") && !drawn(&state, 80, 24).contains("user:7"));
        state.pressed(KeyCode::Esc);
        assert_eq!(order(&state).len(), 3);
        let by = state.by();
        state.pressed(KeyCode::Char('k'));
        assert_ne!(state.by(), by);
        state.pressed(KeyCode::Char('w'));
        assert!(state.pressed(KeyCode::Char('q')));
    }
}

//! Which log gets which rows, when each row can be had once: exact, over all logs whose rows touch each other.
//!
//! Logs are gone through in their order; a state is the set of rows that are gone and the fields that wait for their rest.
//! All states of all logs form a graph without cycles; its longest path is the best assignment, and the longest path
//! through each edge says how much worse the day would be if that log had that unit. So margins are exact too.

use std::collections::HashMap;

use super::evidence::{Row, Unit};

/// More states than this at one log: the day is not decided, its logs are ambiguous.
const MAX_STATES: usize = 4096;

/// A log as the assignment sees it: its units that are worth a look, and what each is worth.
pub(super) struct Entry<'a> {
    /// Number of the log.
    pub(super) log: usize,
    /// Units with their worth against having no row.
    pub(super) units: Vec<(usize, &'a Unit, f64)>,
}

/// What a log can have, best first.
pub(super) struct Choices {
    /// Number of the log.
    pub(super) log: usize,
    /// Unit (`None`: no row), and by how much the best assignment with it is worse than the best of all.
    pub(super) choices: Vec<(Option<usize>, f64)>,
    /// The log whose delivery it continues in the best assignment.
    pub(super) continues: Option<usize>,
    /// What that adds to the likelihood of its best choice.
    pub(super) bonus: f64,
    /// Whether all assignments were looked at.
    pub(super) exact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    /// Rows that no later log can have, sorted.
    gone: Vec<usize>,
    /// Rows that wait for their rest, MU/10, and the log that left it.
    waiting: Vec<(usize, i64, usize)>,
}

struct Edge {
    from: usize,
    to: usize,
    unit: Option<usize>,
    continues: Option<usize>,
    score: f64,
    bonus: f64,
}

/// The best assignment of logs that touch each other, in the order of their start.
pub(super) fn assign(entries: &[Entry<'_>], rows: &[Row]) -> Vec<Choices> {
    let graph = Graph::new(entries, rows);
    let best = graph.ahead.last().and_then(|scores| scores.first()).copied().unwrap_or_default();
    let path = graph.best_path();
    let choices = entries.iter().enumerate().map(|(layer, entry)| {
        let mut choices: HashMap<Vec<usize>, (Option<usize>, f64)> = HashMap::new();
        for edge in graph.edges.get(layer).into_iter().flatten() {
            let through = graph.through(layer, edge) - best;
            // Two readings of the doubled hour are one choice.
            let rows = entry.rows_of(edge.unit);
            let choice = choices.entry(rows).or_insert((edge.unit, through));
            if through > choice.1 {
                *choice = (edge.unit, through);
            }
        }
        let mut choices: Vec<_> = choices.into_values().map(|(unit, score)| (unit, -score)).collect();
        choices.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        let edge = path.get(layer);
        let (continues, bonus) = edge.map_or((None, 0.0), |edge| (edge.continues, edge.bonus));
        Choices { log: entry.log, choices, continues, bonus, exact: graph.exact }
    });
    choices.collect()
}

impl Entry<'_> {
    fn rows_of(&self, unit: Option<usize>) -> Vec<usize> {
        let unit = self.units.iter().find(|(number, ..)| Some(*number) == unit);
        unit.map(|(_, unit, _)| unit.rows.clone()).unwrap_or_default()
    }
}

/// States layer by layer; the last layer has one state.
struct Graph {
    edges: Vec<Vec<Edge>>,
    /// Best score up to each state of a layer.
    ahead: Vec<Vec<f64>>,
    /// Best score from each state on.
    behind: Vec<Vec<f64>>,
    exact: bool,
}

impl Graph {
    fn new(entries: &[Entry<'_>], rows: &[Row]) -> Self {
        let context = Context::new(entries, rows);
        let mut states = vec![State::default()];
        let mut graph = Graph { edges: Vec::new(), ahead: vec![vec![0.0]], behind: Vec::new(), exact: true };
        for (layer, entry) in entries.iter().enumerate() {
            let mut numbers: HashMap<State, usize> = HashMap::new();
            let (mut next, mut edges, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
            let before = graph.ahead.last().cloned().unwrap_or_default();
            for (from, state) in states.iter().enumerate() {
                for mut step in state.steps(entry, &context) {
                    step.to.forget(layer, &context);
                    let to = *numbers.entry(step.to).or_insert_with_key(|state| {
                        next.push(state.clone());
                        ahead.push(f64::NEG_INFINITY);
                        next.len() - 1
                    });
                    let total = before.get(from).copied().unwrap_or(f64::NEG_INFINITY) + step.score;
                    if let Some(best) = ahead.get_mut(to) {
                        *best = best.max(total);
                    }
                    let Step { unit, continues, score, bonus, .. } = step;
                    edges.push(Edge { from, to, unit, continues, score, bonus });
                }
            }
            if next.len() > MAX_STATES {
                graph.exact = false;
                keep_best(&mut next, &mut ahead, &mut edges);
            }
            graph.edges.push(edges);
            graph.ahead.push(ahead);
            states = next;
        }
        graph.look_back();
        graph
    }

    fn look_back(&mut self) {
        let mut behind = vec![vec![0.0; self.ahead.last().map_or(0, Vec::len)]];
        for (layer, edges) in self.edges.iter().enumerate().rev() {
            let mut scores = vec![f64::NEG_INFINITY; self.ahead.get(layer).map_or(0, Vec::len)];
            for edge in edges {
                let after = behind.last().and_then(|scores: &Vec<f64>| scores.get(edge.to)).copied();
                if let (Some(score), Some(after)) = (scores.get_mut(edge.from), after) {
                    *score = score.max(edge.score + after);
                }
            }
            behind.push(scores);
        }
        behind.reverse();
        self.behind = behind;
    }

    /// Score of the best assignment that uses an edge.
    fn through(&self, layer: usize, edge: &Edge) -> f64 {
        let at = |scores: &[Vec<f64>], layer: usize, state: usize| {
            scores.get(layer).and_then(|scores| scores.get(state)).copied().unwrap_or(f64::NEG_INFINITY)
        };
        at(&self.ahead, layer, edge.from) + edge.score + at(&self.behind, layer + 1, edge.to)
    }

    fn best_path(&self) -> Vec<&Edge> {
        let mut state = 0;
        let mut path = Vec::new();
        for (layer, edges) in self.edges.iter().enumerate() {
            let from_here = edges.iter().filter(|edge| edge.from == state);
            let best = from_here.max_by(|a, b| self.through(layer, a).total_cmp(&self.through(layer, b)));
            let Some(edge) = best else { break };
            path.push(edge);
            state = edge.to;
        }
        path
    }
}

/// What does not change while the logs are gone through.
struct Context<'a> {
    rows: &'a [Row],
    /// The last log that can have each row.
    last_use: HashMap<usize, usize>,
    /// The last log that can begin with each field.
    last_wish: HashMap<(i64, i64), usize>,
    /// Rows that come before each row.
    before: HashMap<usize, Vec<usize>>,
}

impl<'a> Context<'a> {
    fn new(entries: &[Entry<'_>], rows: &'a [Row]) -> Self {
        let (mut last_use, mut last_wish) = (HashMap::new(), HashMap::new());
        for (layer, entry) in entries.iter().enumerate() {
            for (_, unit, _) in &entry.units {
                last_use.extend(unit.rows.iter().map(|&row| (row, layer)));
                let first = unit.rows.first().and_then(|&row| rows.get(row));
                last_wish.extend(first.map(|row| (row.field, layer)));
            }
        }
        let before = |&row: &usize| {
            let precedes = |&&other: &&usize| match (rows.get(other), rows.get(row)) {
                (Some(other), Some(row)) => other.precedes(row),
                _ => false,
            };
            (row, last_use.keys().filter(precedes).copied().collect())
        };
        Context { before: last_use.keys().map(before).collect(), rows, last_use, last_wish }
    }

    fn field(&self, row: usize) -> Option<(i64, i64)> {
        self.rows.get(row).map(|row| row.field)
    }
}

struct Step {
    to: State,
    unit: Option<usize>,
    continues: Option<usize>,
    score: f64,
    bonus: f64,
}

/// How a record goes on with a delivery that an earlier one left.
struct Rest {
    /// Its place among those that wait.
    place: usize,
    /// The row that waits, and the log that left it.
    row: usize,
    from: usize,
    /// What that adds to the likelihood.
    bonus: f64,
    /// What is left even now.
    left_mu: Option<f64>,
}

impl State {
    /// All that a log can do in this state.
    fn steps(&self, entry: &Entry<'_>, context: &Context<'_>) -> Vec<Step> {
        let mut steps = vec![Step { to: self.clone(), unit: None, continues: None, score: 0.0, bonus: 0.0 }];
        for &(number, unit, worth) in &entry.units {
            let rests = (0..self.waiting.len()).filter_map(|place| self.rest(place, unit, context));
            for rest in std::iter::once(None).chain(rests.map(Some)) {
                if let Some(to) = self.take(entry.log, unit, rest.as_ref(), context) {
                    let (continues, bonus) = rest.map_or((None, 0.0), |rest| (Some(rest.from), rest.bonus));
                    steps.push(Step { to, unit: Some(number), continues, score: worth + bonus, bonus });
                }
            }
        }
        steps
    }

    /// Whether a unit is the rest, or another part, of what waits at a place.
    fn rest(&self, place: usize, unit: &Unit, context: &Context<'_>) -> Option<Rest> {
        let (&first, &mu) = (unit.rows.first()?, unit.rows_mu.first()?);
        let &(row, left, from) = self.waiting.get(place)?;
        if context.field(row) != context.field(first) || (row != first && !unit.begins_with_part()) {
            return None;
        }
        let left = left as f64 / 10.0;
        match unit.as_rest(left) {
            Some(bonus) => {
                Some(Rest { place, row, from, bonus, left_mu: unit.left_mu.filter(|_| unit.rows.len() > 1) })
            }
            None if unit.rows.len() == 1 && mu < left => {
                Some(Rest { place, row, from, bonus: 0.0, left_mu: Some(left - mu) })
            }
            None => None,
        }
    }

    /// The state after a log took a unit, perhaps as the rest of another log's; `None` if its rows are gone.
    fn take(&self, log: usize, unit: &Unit, rest: Option<&Rest>, context: &Context<'_>) -> Option<State> {
        let gone = |row: &usize| self.gone.binary_search(row).is_ok();
        let continued = rest.map(|rest| rest.row);
        if unit.rows.iter().any(|row| gone(row) && continued != Some(*row)) {
            return None;
        }
        let mut to = self.clone();
        if let Some(rest) = rest {
            to.waiting.remove(rest.place);
        }
        for row in &unit.rows {
            to.gone.push(*row);
            // Records of one field name come in the order of their rows.
            to.gone.extend(context.before.get(row).into_iter().flatten());
        }
        to.gone.sort_unstable();
        to.gone.dedup();
        let left_mu = rest.map_or(unit.left_mu, |rest| rest.left_mu);
        if let (Some(left), Some(&row)) = (left_mu, unit.rows.last()) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a meterset fits; a saturated one fits nothing"
            )]
            to.waiting.push((row, (left * 10.0).round() as i64, log));
            to.waiting.sort_unstable();
        }
        Some(to)
    }

    /// Drops what no later log asks for, so that states that differ in nothing that matters are one.
    fn forget(&mut self, layer: usize, context: &Context<'_>) {
        self.gone.retain(|row| context.last_use.get(row).is_some_and(|&last| last > layer));
        let wished = |row| context.field(row).and_then(|field| context.last_wish.get(&field));
        self.waiting.retain(|&(row, ..)| wished(row).is_some_and(|&last| last > layer));
    }
}

/// Cuts a layer down to its best states.
fn keep_best(states: &mut Vec<State>, ahead: &mut Vec<f64>, edges: &mut Vec<Edge>) {
    let mut order: Vec<usize> = (0..states.len()).collect();
    let score = |place: &usize| ahead.get(*place).copied().unwrap_or(f64::NEG_INFINITY);
    order.sort_by(|a, b| score(b).total_cmp(&score(a)));
    order.truncate(MAX_STATES);
    let new_place: HashMap<usize, usize> = order.iter().enumerate().map(|(new, &old)| (old, new)).collect();
    edges.retain_mut(|edge| {
        let new = new_place.get(&edge.to);
        edge.to = new.copied().unwrap_or_default();
        new.is_some()
    });
    *ahead = order.iter().map(score).collect();
    *states = order.iter().filter_map(|&place| states.get(place).cloned()).collect();
}

//! The methods `Insight.GetAssociations` and `Insight.Predict`, which return the learned state of prefetch.

use super::Edge;
use crate::{
    cache::prefetch::{self, Evidence, PrefetchReport},
    error::{CacheError, Kind, Result},
    model::Key,
    proto::{
        Association, GetAssociationsRequest, GetAssociationsResponse, PredictRequest, PredictResponse, Prediction,
        PrefetchControl, PrefetchCounts, PrefetchGroup, TemplateRule,
    },
};

/// Maximum number of rules in a response of `Insight.GetAssociations`.
const RULES_MAX: usize = 1_000;

impl Edge {
    pub(super) async fn get_associations(&self, request: GetAssociationsRequest) -> Result<GetAssociationsResponse> {
        self.principal().check_inspects()?;
        let core = self.cache.core();
        let mut associations = Vec::new();
        if !request.key.is_empty() {
            let key = Key::new(request.key)?;
            self.principal().check_sees(&key)?;
            let message = "no associations are known for this key; it had no recent L1 miss";
            let found = core.successors(&key).ok_or_else(|| CacheError::new(Kind::InvalidArgument, message))?;
            let found = found.into_iter().filter(|successor| self.principal().sees(&successor.key));
            associations.extend(found.map(|successor| Association {
                key: successor.key.into(),
                tried: successor.tried.into(),
                right: successor.right.into(),
                lag: successor.lag.into(),
                probability: successor.p,
            }));
        }
        let rules = core.template_rules().into_iter().filter(|(template, _)| self.principal().sees_group(template));
        let rules = rules.flat_map(|(template, rules)| {
            let rules = rules.into_iter().filter(|rule| self.principal().sees_group(&rule.makes));
            rules.map(move |rule| TemplateRule {
                template: template.clone(),
                makes: rule.makes,
                tried: rule.tried.into(),
                right: rule.right.into(),
                probability: rule.p,
            })
        });
        let mut rules: Vec<TemplateRule> = rules.collect();
        rules.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        rules.truncate(RULES_MAX);
        Ok(response(self.cache.prefetch_report(), associations, rules))
    }

    pub(super) async fn predict(&self, request: PredictRequest) -> Result<PredictResponse> {
        let key = Key::new(request.key)?;
        self.principal().check_sees(&key)?;
        let predictions = self.cache.core().predict(&key).into_iter();
        let predictions = predictions.filter(|predicted| self.principal().sees(&predicted.key)).map(prediction);
        Ok(PredictResponse { predictions: predictions.collect() })
    }
}

fn control(evidence: &Evidence) -> PrefetchControl {
    PrefetchControl {
        without_decided: evidence.without.decided,
        without_missed: evidence.without.missed,
        with_decided: evidence.with.decided,
        with_missed: evidence.with.missed,
        gain: evidence.gain.map(|(gain, _)| gain),
        gain_deviation: evidence.gain.map(|(_, deviation)| deviation),
    }
}

/// Converts a prediction: a key, whether it would be prefetched, and the reason.
pub(super) fn prediction(of: prefetch::Prediction) -> Prediction {
    Prediction { key: of.key.into(), probability: of.p, fetched: of.fetched, why: of.why }
}

/// Converts the counters of prefetched keys by outcome.
pub(super) fn counts(counts: prefetch::FetchCounts) -> PrefetchCounts {
    PrefetchCounts {
        issued: counts.issued,
        used: counts.used,
        late: counts.late,
        wasted: counts.wasted,
        shadow: counts.shadow,
    }
}

fn response(
    report: PrefetchReport,
    associations: Vec<Association>,
    rules: Vec<TemplateRule>,
) -> GetAssociationsResponse {
    let groups = report.groups.into_iter();
    GetAssociationsResponse {
        associations,
        rules,
        total: Some(counts(report.counts)),
        groups: groups.map(|group| PrefetchGroup { name: group.name, counts: Some(counts(group.counts)) }).collect(),
        known_keys: report.keys,
        learned_bytes: report.bytes,
        floor: report.floor,
        control: Some(control(&report.evidence)),
    }
}

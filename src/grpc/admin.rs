//! The methods of `terrace.v1.Admin`.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tonic::Status;

use super::{
    Edge, convert,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    cache::{ScanPage, ScanRequest, TierChoice, invalidate::pattern_bans::check_pattern},
    error::Result,
    glob::Glob,
    proto::{
        ConfigEntry, FlushRequest, FlushResponse, GetConfigRequest, GetConfigResponse, ScanKeysRequest,
        ScanKeysResponse, flush_request::Keys,
    },
};

/// Number of keys that L2 scans for one page of ScanKeys. A page of the longest keys has 64 MiB, so the keys of a page
/// are distributed over messages of about [`KEYS_BYTES`].
const PAGE_KEYS: usize = 1_000;
/// Approximate maximum size in bytes of the keys in one message.
const KEYS_BYTES: usize = 64 * 1024;
/// Value of `confirm` that permits the removal of every key.
const CONFIRM_ALL: &[u8] = b"flush all";

impl Edge {
    pub(super) async fn get_config(&self, _request: GetConfigRequest) -> Result<GetConfigResponse> {
        let settings = self.node.settings.load();
        let entries = settings.iter().map(|setting| ConfigEntry {
            key: setting.key.clone(),
            value: setting.value.clone(),
            source: setting.source.clone(),
            reloadable: setting.reloadable,
        });
        Ok(GetConfigResponse { entries: entries.collect() })
    }

    pub(super) async fn flush(&self, request: FlushRequest) -> Result<FlushResponse> {
        match &request.keys {
            None => Err(convert::invalid("neither all nor prefix is set; set one of them".to_owned())),
            Some(Keys::All(_)) => {
                confirmed(&request, CONFIRM_ALL)?;
                self.cache.clear().await.map(|()| FlushResponse { ban: 0 })
            }
            Some(Keys::Prefix(prefix)) if prefix.is_empty() => {
                Err(convert::invalid("prefix is empty; set all to remove every key".to_owned()))
            }
            Some(Keys::Prefix(prefix)) => {
                confirmed(&request, prefix)?;
                let glob = Glob::of_prefix(prefix)?;
                check_pattern(&glob)?;
                let invalidation = self.cache.invalidate_pattern(glob).await?;
                Ok(FlushResponse { ban: invalidation.ban })
            }
        }
    }
}

/// Checks that `confirm` repeats the subject of the request.
///
/// # Errors
/// `InvalidArgument` with the expected value.
fn confirmed(request: &FlushRequest, wanted: &[u8]) -> Result<()> {
    if request.confirm == wanted {
        return Ok(());
    }
    Err(convert::invalid(format!("confirm must be \"{}\"; nothing was removed", wanted.escape_ascii())))
}

pub(super) fn scan_keys(edge: Arc<Edge>, request: Request<Incoming>) -> Call {
    stream::call(|output| async move {
        if let Err(status) = scan(&edge, request, &output).await {
            // A client that has disconnected needs no status.
            let _disconnected = output.send(Err(status)).await;
        }
    })
}

async fn scan(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    let mut scan = Scan::new(edge, stream::received(edge, request).await?).map_err(|error| convert::status(&error))?;
    while let Some(page) = scan.next().await.map_err(|error| convert::status(&error))? {
        for keys in messages(page) {
            if output.send(Ok(stream::frame(edge, &keys)?)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Distributes the keys of a page over messages of about [`KEYS_BYTES`].
fn messages(page: ScanPage) -> Vec<ScanKeysResponse> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    for key in page.keys {
        if messages.is_empty() || bytes + key.len() > KEYS_BYTES {
            messages.push(ScanKeysResponse::default());
            bytes = 0;
        }
        bytes += key.len();
        if let Some(message) = messages.last_mut() {
            message.keys.push(key.bytes().clone());
        }
    }
    messages
}

/// A scan in progress.
struct Scan<'a> {
    edge: &'a Edge,
    pattern: Option<Glob>,
    resident: bool,
    /// `None` after the last page.
    cursor: Option<u64>,
    /// Remaining number of keys to send, at most.
    left: u64,
}

impl<'a> Scan<'a> {
    fn new(edge: &'a Edge, request: ScanKeysRequest) -> Result<Self> {
        let resident = match convert::tier_choice(request.tier, "tier")? {
            TierChoice::L1Only => true,
            TierChoice::Any => false,
            TierChoice::L2Only if edge.has_l2() => false,
            TierChoice::L2Only => return Err(convert::invalid("tier is L2_ONLY; this server has no L2".to_owned())),
        };
        let pattern = if request.pattern.is_empty() { None } else { Some(Glob::new(&request.pattern)?) };
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        Ok(Self { edge, pattern, resident, cursor: Some(0), left })
    }

    /// Returns the next page, which may be empty; `None` after the last page.
    async fn next(&mut self) -> Result<Option<ScanPage>> {
        let Some(cursor) = self.cursor.filter(|_| self.left > 0) else { return Ok(None) };
        let mut page = if self.resident {
            self.edge.cache.scan_resident(cursor, self.pattern.as_ref(), PAGE_KEYS)
        } else {
            let pattern = self.pattern.as_ref().map(|pattern| pattern.pattern().clone());
            self.edge.cache.scan(ScanRequest { cursor, pattern, count: PAGE_KEYS, type_name: None }).await?
        };
        page.keys.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= page.keys.len() as u64;
        self.cursor = (page.cursor != 0).then_some(page.cursor);
        Ok(Some(page))
    }
}

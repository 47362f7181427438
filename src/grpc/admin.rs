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
    access::Verbs,
    cache::{ScanPage, ScanRequest, TierChoice, invalidate::pattern_bans::check_pattern},
    error::Result,
    glob::Glob,
    proto::{
        ConfigEntry, FlushRequest, FlushResponse, GetConfigRequest, GetConfigResponse, ScanKeysRequest,
        ScanKeysResponse, flush_request::Keys,
    },
};

/// Maximum number of keys that L2 scans for one page of ScanKeys.
const PAGE_KEYS: usize = 1_000;
/// Number of keys of the first page of ScanKeys, and minimum number of keys of later pages. Keys of the maximum size
/// then have 1 MiB.
const PAGE_KEYS_MIN: usize = 16;
/// Approximate maximum size in bytes of the keys of one page. The size of the previous page determines the number of
/// keys of the next one.
const PAGE_BYTES: u64 = 1 << 20;
/// Approximate maximum size in bytes of the keys in one message.
const KEYS_BYTES: usize = 64 * 1024;
/// Value of `confirm` that permits the removal of every key.
const CONFIRM_ALL: &[u8] = b"flush all";

impl Edge {
    pub(super) async fn get_config(&self, _request: GetConfigRequest) -> Result<GetConfigResponse> {
        self.must(Verbs::ADMIN)?;
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
    stream::call(&Arc::clone(&edge), |output| async move {
        // A scan may read many pages without a matching key.
        stream::while_connected(&output, scan(&edge, request, &output)).await
    })
}

async fn scan(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    let (request, _held) = stream::received(edge, request).await?;
    let may_list = edge.principal().may_somewhere(Verbs::READ) || edge.principal().may_somewhere(Verbs::INSPECT);
    if !may_list {
        return Err(convert::status(&edge.principal().denied(Verbs::READ)));
    }
    let mut scan = Scan::new(edge, request).map_err(|error| convert::status(&error))?;
    loop {
        // The page waits in memory until the client has read it.
        edge.account().room(PAGE_BYTES).await;
        let Some(page) = scan.next().await.map_err(|error| convert::status(&error))? else { return Ok(()) };
        let _held = edge.account().hold(scan.page_bytes);
        for keys in messages(page) {
            if output.send(Ok(stream::frame(edge, &keys)?)).await.is_err() {
                return Ok(());
            }
        }
    }
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
    /// Number of keys of the next page.
    page_keys: usize,
    /// Size in bytes of the keys of the last page.
    page_bytes: u64,
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
        Ok(Self { edge, pattern, resident, cursor: Some(0), left, page_keys: PAGE_KEYS_MIN, page_bytes: 0 })
    }

    /// Returns the next page, which may be empty; `None` after the last page.
    async fn next(&mut self) -> Result<Option<ScanPage>> {
        let Some(cursor) = self.cursor.filter(|_| self.left > 0) else { return Ok(None) };
        let mut page = if self.resident {
            self.edge.cache.scan_resident(cursor, self.pattern.as_ref(), self.page_keys)
        } else {
            let pattern = self.pattern.as_ref().map(|pattern| pattern.pattern().clone());
            self.edge.cache.scan(ScanRequest { cursor, pattern, count: self.page_keys, type_name: None }).await?
        };
        self.page_bytes = page.keys.iter().map(|key| key.len() as u64).sum();
        let may_grow = self.page_bytes <= PAGE_BYTES / 4;
        self.page_keys =
            if may_grow { (self.page_keys * 2).min(PAGE_KEYS) } else { (self.page_keys / 2).max(PAGE_KEYS_MIN) };
        page.keys.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= page.keys.len() as u64;
        self.cursor = (page.cursor != 0).then_some(page.cursor);
        Ok(Some(page))
    }
}

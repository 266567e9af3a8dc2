//! The plan: in which order the requests of a batch are sent, where each lies, and where the order is cut into chunks.
//!
//! The whole file is ordered before it is cut: by model, by what makes an engine reload, then by prompt prefix. Sorting
//! only inside chunks would throw most of the gain of an engine's prefix cache away. How a plan lies on disk is in
//! `docs/formats.md`.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::Order;
use crate::chunk::ChunkRange;
use crate::ids::{BlobKey, RequestIndex};
use crate::limits::{
    CHUNK_LEN_MAX, CHUNK_REQUESTS_MAX, CHUNK_REQUESTS_MIN, CHUNKS_PER_BATCH_MIN, PLAN_TABLES_LEN_MAX,
};

/// The prompt prefixes, in bytes, that are compared: each rung groups what is equal up to there.
const RUNGS: [usize; 4] = [256, 1_024, 4_096, 16_384];

/// What decides the place of a request in the order. Compared member by member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SortKey {
    /// The number of the model in the plan's table.
    pub model: u16,
    /// A digest of the reload-forcing options; 0 for none.
    options: u32,
    /// Digests of ever longer prefixes. Sorting by them walks the tree of prefixes depth first, rung by rung, at 16
    /// bytes a request whatever the prompts' length.
    ladder: [u32; RUNGS.len()],
    index: u32,
}

impl SortKey {
    pub fn new(
        order: Order,
        model: u16,
        index: RequestIndex,
        prompt: Option<&str>,
        options: Option<&str>,
    ) -> Self {
        match order {
            Order::File => Self { index: index.0, ..Self::default() },
            Order::Prefix => Self {
                model,
                options: options.map_or(0, |options| fold(xxh3_64(options.as_bytes())).max(1)),
                ladder: ladder(prompt),
                index: index.0,
            },
        }
    }

    pub const LEN: usize = 2 + 4 + 4 * RUNGS.len() + 4;

    /// Bytes that compare as the keys do.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (model, rest) = bytes.split_at_mut(2);
        model.copy_from_slice(&self.model.to_be_bytes());
        let words = std::iter::once(self.options).chain(self.ladder).chain([self.index]);
        for (place, word) in rest.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

fn ladder(prompt: Option<&str>) -> [u32; RUNGS.len()] {
    let mut ladder = [0; RUNGS.len()];
    if let Some(prompt) = prompt {
        for (rung, len) in ladder.iter_mut().zip(RUNGS) {
            // A prompt that ends before the rung has nothing more to share: the whole of it is the key.
            *rung = fold(xxh3_64(&prompt.as_bytes()[..len.min(prompt.len())]));
        }
    }
    ladder
}

const fn fold(digest: u64) -> u32 {
    (digest ^ (digest >> 32)) as u32
}

/// Where one request lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanEntry {
    /// The place of its line in the blob.
    pub offset: u64,
    /// The length of its line without the line break.
    pub len: u32,
    pub index: RequestIndex,
    /// The physical line in the input, from 1.
    pub line: u32,
    /// The number of the model in the plan's table.
    pub model: u16,
    /// The number of the blob in the plan's table.
    pub blob: u8,
    /// It has the answer of the entry before it: identical requests are folded into one call with many result lines.
    pub is_folded: bool,
}

impl PlanEntry {
    pub const LEN: usize = 28;

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.index.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.line.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.model.to_le_bytes());
        bytes[22] = self.blob;
        bytes[23] = u8::from(self.is_folded);
        let check = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// None when the bytes are not what was written.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let word =
            |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(24) != crc32c::crc32c(&bytes[..24]) || bytes[23] > 1 {
            return None;
        }
        Some(Self {
            offset: u64::from(word(0)) | (u64::from(word(4)) << 32),
            len: word(8),
            index: RequestIndex(word(12)),
            line: word(16),
            model: u16::from_le_bytes([bytes[20], bytes[21]]),
            blob: bytes[22],
            is_folded: bytes[23] == 1,
        })
    }
}

/// The tables at the beginning of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTables {
    pub entries: u64,
    pub models: Vec<String>,
    pub blobs: Vec<BlobKey>,
}

/// The plan is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plan is damaged or of another version")]
pub struct DamagedPlan;

impl PlanTables {
    const MAGIC: [u8; 8] = *b"OVNPLAN\x01";
    /// Magic, length of the tables, checksum of the tables.
    pub const PREAMBLE_LEN: usize = 16;

    /// The preamble and the tables; the entries follow.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tables = serde_json::to_vec(self).expect("strings and numbers are always JSON");
        let mut bytes = Vec::with_capacity(Self::PREAMBLE_LEN + tables.len());
        bytes.extend_from_slice(&Self::MAGIC);
        bytes.extend_from_slice(&(tables.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&tables).to_le_bytes());
        bytes.extend_from_slice(&tables);
        bytes
    }

    /// The length of the tables behind the preamble.
    pub fn len_from_preamble(preamble: &[u8; Self::PREAMBLE_LEN]) -> Result<u32, DamagedPlan> {
        let len = u32::from_le_bytes([preamble[8], preamble[9], preamble[10], preamble[11]]);
        if preamble[..8] != Self::MAGIC || len > PLAN_TABLES_LEN_MAX {
            return Err(DamagedPlan);
        }
        Ok(len)
    }

    pub fn from_bytes(preamble: &[u8; Self::PREAMBLE_LEN], tables: &[u8]) -> Result<Self, DamagedPlan> {
        let check = u32::from_le_bytes([preamble[12], preamble[13], preamble[14], preamble[15]]);
        if crc32c::crc32c(tables) != check {
            return Err(DamagedPlan);
        }
        serde_json::from_slice(tables).map_err(|_| DamagedPlan)
    }
}

/// Cuts an order into chunks as its entries pass by.
#[derive(Debug)]
pub struct ChunkCutter {
    requests_max: u32,
    open: ChunkRange,
    chunks: Vec<ChunkRange>,
}

impl ChunkCutter {
    pub fn new(total: u64) -> Self {
        let shared = u32::try_from(total.div_ceil(CHUNKS_PER_BATCH_MIN)).unwrap_or(u32::MAX);
        Self {
            requests_max: shared.clamp(CHUNK_REQUESTS_MIN, CHUNK_REQUESTS_MAX),
            open: ChunkRange { first_entry: 0, entry_count: 0, len: 0 },
            chunks: Vec::new(),
        }
    }

    pub fn push(&mut self, entry: &PlanEntry) {
        let is_full = self.open.entry_count >= self.requests_max
            || self.open.len + u64::from(entry.len) > CHUNK_LEN_MAX;
        // A folded entry stays with the one whose answer it has.
        if is_full && self.open.entry_count > 0 && !entry.is_folded {
            self.cut();
        }
        self.open.entry_count += 1;
        self.open.len += u64::from(entry.len);
    }

    pub fn finish(mut self) -> Vec<ChunkRange> {
        if self.open.entry_count > 0 {
            self.cut();
        }
        self.chunks
    }

    fn cut(&mut self) {
        let next = self.open.first_entry + u64::from(self.open.entry_count);
        self.chunks.push(self.open);
        self.open = ChunkRange { first_entry: next, entry_count: 0, len: 0 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(index: u32, len: u32) -> PlanEntry {
        PlanEntry {
            offset: 7,
            len,
            index: RequestIndex(index),
            line: index + 1,
            model: 3,
            blob: 2,
            is_folded: false,
        }
    }

    fn key(index: u32, prompt: &str) -> SortKey {
        SortKey::new(Order::Prefix, 0, RequestIndex(index), Some(prompt), None)
    }

    #[test]
    fn equal_prefixes_become_neighbours() {
        let groups = ["one ", "two ", "three "].map(|word| word.repeat(500));
        let mut keys: Vec<(SortKey, usize)> = (0..30)
            .map(|at| {
                let group = at % 3;
                (key(at as u32, &format!("{}{at}", groups[group])), group)
            })
            .collect();
        keys.sort_unstable();
        let changes = keys.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
        assert_eq!(changes, 2, "each group is one run");
    }

    #[test]
    fn models_and_options_come_before_prefixes() {
        let with =
            |model, options| SortKey::new(Order::Prefix, model, RequestIndex(0), Some("p"), options);
        assert!(with(0, Some("{}")) < with(1, None));
        assert!(with(0, None) < with(0, Some("{\"num_ctx\":1}")));
    }

    #[test]
    fn file_order_is_the_index() {
        let file =
            |index, model| SortKey::new(Order::File, model, RequestIndex(index), Some("x"), Some("y"));
        assert!(file(1, 9) < file(2, 0));
    }

    #[test]
    fn chunks_are_shared_out_and_bounded() {
        let cut = |total: u64, len| {
            let mut cutter = ChunkCutter::new(total);
            (0..total).for_each(|index| cutter.push(&entry(index as u32, len)));
            cutter.finish()
        };
        assert_eq!(cut(1, 10).len(), 1);
        assert_eq!(cut(200, 10).len(), 4, "not smaller than the minimum");
        assert_eq!(cut(8_000, 10).len(), 8);
        assert!(cut(100_000, 10).iter().all(|chunk| chunk.entry_count <= CHUNK_REQUESTS_MAX));
        assert!(
            cut(100, 5 << 20).iter().all(|chunk| chunk.entry_count == 1),
            "two would be over the length"
        );
    }

    #[test]
    fn folded_entries_stay_with_their_leader() {
        let mut cutter = ChunkCutter::new(200);
        for index in 0..200 {
            cutter.push(&PlanEntry { is_folded: index > 0, ..entry(index, 10) });
        }
        assert_eq!(cutter.finish().len(), 1);
    }

    #[test]
    fn tables_are_read_back_and_checked() {
        let tables =
            PlanTables { entries: 3, models: vec!["m".into()], blobs: vec![BlobKey::new("files/x")] };
        let bytes = tables.to_bytes();
        let (preamble, rest) = bytes.split_at(PlanTables::PREAMBLE_LEN);
        let preamble: &[u8; PlanTables::PREAMBLE_LEN] = preamble.try_into().expect("its length");
        assert_eq!(PlanTables::len_from_preamble(preamble), Ok(rest.len() as u32));
        assert_eq!(PlanTables::from_bytes(preamble, rest), Ok(tables));
        assert_eq!(PlanTables::from_bytes(preamble, &rest[1..]), Err(DamagedPlan));
    }

    proptest! {
        #[test]
        fn keys_compare_as_their_bytes(a in any::<(u16, u32, [u32; 4], u32)>(), b in any::<(u16, u32, [u32; 4], u32)>()) {
            let key = |(model, options, ladder, index)| SortKey { model, options, ladder, index };
            prop_assert_eq!(key(a).cmp(&key(b)), key(a).to_bytes().cmp(&key(b).to_bytes()));
        }

        #[test]
        fn entries_are_read_back(offset: u64, len: u32, index: u32, line: u32, model: u16, blob: u8, is_folded: bool) {
            let entry = PlanEntry { offset, len, index: RequestIndex(index), line, model, blob, is_folded };
            prop_assert_eq!(PlanEntry::from_bytes(&entry.to_bytes()), Some(entry));
        }

        #[test]
        fn a_flipped_bit_is_seen(bit in 0..PlanEntry::LEN * 8) {
            let mut bytes = entry(1, 2).to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(PlanEntry::from_bytes(&bytes), None);
        }
    }
}

//! Replies that the host has found before, where the bridge finds them again without a call into Python.
//!
//! The host says which replies are kept, each of which it has checked, and no guest can reach this memory. A question is
//! found by all of its bytes; the hash only says where to look. Whoever chooses questions that have the same hash costs
//! himself a few looks: a question is at one of eight places, and a ninth takes the place of one of them.
//!
//! Memory: an index, a 32nd of all at least, then entries, one after another, for which this module's memory grows page by
//! page. When there is no room left the host has all of them forgotten. A tool's name stands in one place for all of its
//! replies.

const pieces = @import("pieces.zig");

const max_tool = 256;
const max_args = 1024;
const max_reply = 8192;
const page = 64 * 1024;
const places = 8;
/// Different replies of one job that are told, and tools that are told apart: what a result has room for.
const max_used = 64;
const max_tools = 64;

/// The question that is asked, copied by the bridge: its tool, then its arguments from `max_tool` on. What stands
/// behind either is not used.
var question: [max_tool + max_args + pieces.size]u8 align(8) = undefined;

const Entry = extern struct {
    /// On the clock of `Asked.now`.
    expires: i64,
    /// The last job that used it.
    job: u32,
    of: Of,
    // Behind it the arguments and the reply, each filled up with zeros to a multiple of 8.
};

/// Of which tool a reply is, and its lengths. In few bits: of short replies a worker keeps hundreds of thousands.
const Of = packed struct(u32) {
    tool: u6,
    args_len: u11,
    reply_len: u14,
    unused: u1 = 0,
};

/// What the host reads after a job, and sets before the next one. `near_replies.py` has the same layout.
const Asked = extern struct {
    /// Questions that were answered here in this job.
    hits: u32,
    /// How many tools they named, and how many different replies they had.
    tools: u32,
    used: u32,
    /// A number that no job before had.
    job: u32,
    /// How many questions may be answered in this job, here and by the host.
    limit: u32,
    /// How many there were.
    tried: u32,
    /// All questions that were ever answered here.
    all: u64,
    /// Replies that expire by then are not given any more.
    now: i64,
    /// When the reply expires that the host gives the guard, and the number of its tool, below 64; 0: it is not to be kept.
    keep: i64,
    keep_tool: u32,
    /// There was no room for a reply since the last `near_forget`.
    full: u32,
    /// Replies that were kept since then.
    kept: u32,
    unused: u32,
    /// The tools, and how often each was named.
    tool: [max_tools]u32,
    count: [max_tools]u32,
    /// Where the first replies stand; `used` may count more.
    entry: [max_used]u32,
};

var asked: Asked = undefined;
/// Where among the entries the tools' names stand, each filled up with zeros, and their lengths. A length of 0: no reply of this
/// tool is here.
var name: [max_tools][*]u64 = undefined;
var name_len: [max_tools]u32 = undefined;
/// The last job that named each tool, and where in `asked` the tool stands then.
var named: [max_tools]u32 = undefined;
var place: [max_tools]u32 = undefined;

/// Where an entry is, and above it half of its question's hash: to look at an entry of another question would take longer than
/// all else. 0: nothing is there.
var index: [*]u64 = undefined;
/// How many places the index has, a power of two.
var slots: usize = 0;
var first: usize = 0;
var next: usize = 0;
var end: usize = 0;
var most: usize = 0;
var found: *Entry = undefined;

/// Makes the index; `bytes` is what it and the entries may take. Returns where `asked` stands, or 0 if there is no memory.
export fn near_start(bytes: usize) usize {
    var pages: usize = 1;
    while (pages * page < bytes / 32) pages *= 2;
    const old = @wasmMemoryGrow(0, pages);
    if (old < 0) return 0;
    const at: usize = @as(usize, @intCast(old)) * page;
    index = @ptrFromInt(at);
    slots = pages * page / @sizeOf(u64);
    first = at + pages * page;
    next = first;
    end = first;
    most = at + bytes;
    @memset(@as([*]u8, @ptrCast(&asked))[0..@sizeOf(Asked)], 0);
    @memset(&name_len, 0);
    @memset(&named, 0);
    asked.job = 1;
    return @intFromPtr(&asked);
}

/// Counts a question, wherever its answer will come from. 0: it is one too many to be answered here.
export fn near_ask() u32 {
    if (asked.tried >= asked.limit) return 0;
    asked.tried += 1;
    return 1;
}

/// Takes 64 bytes of a question; past its end they may be anything.
export fn near_take(at: usize, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64) void {
    if (at > max_tool + max_args) return;
    pieces.write(question[at..][0..pieces.size], a, b, c, d, e, f, g, h);
}

/// The length of the reply to the question that was taken, or -1 if it is not here.
export fn near_find(tool_len: usize, args_len: usize) isize {
    const hash = hashOf(tool_len, args_len);
    var i: usize = 0;
    while (i < places) : (i += 1) {
        const slot = index[slotOf(hash, i)];
        if (slot == 0) return -1;
        if (slot >> 32 != hash & 0xFFFF_FFFF) continue;
        const entry = entryAt(slot);
        if (!isOf(entry, tool_len, args_len)) continue;
        if (entry.expires <= asked.now) return -1;
        found = entry;
        return @intCast(entry.of.reply_len);
    }
    return -1;
}

/// Eight bytes of the reply that was found; the last ones are filled up with zeros.
export fn near_word(at: usize) u64 {
    return wordsOf(found)[(whole(found.of.args_len) + at) / 8];
}

/// Counts the reply that was found: the guard has it.
export fn near_count() void {
    asked.hits += 1;
    asked.all += 1;
    const tool = found.of.tool;
    if (named[tool] != asked.job) {
        named[tool] = asked.job;
        place[tool] = asked.tools;
        asked.tool[asked.tools] = tool;
        asked.count[asked.tools] = 0;
        asked.tools += 1;
    }
    asked.count[place[tool]] += 1;
    if (found.job != asked.job) {
        found.job = asked.job;
        if (asked.used < max_used) asked.entry[asked.used] = @intFromPtr(found);
        asked.used += 1;
    }
}

/// Makes room for the reply to the question that was taken, which the host gave the guard, if it is to be kept.
/// `reply_len` of 0 or less: the question was not taken, or had no answer. Either way the host's word is for this question only.
/// Returns 1 if `near_put` is to be called for the whole reply, or 0.
export fn near_keep(tool_len: usize, args_len: usize, reply_len: isize) u32 {
    const expires = asked.keep;
    asked.keep = 0;
    const tool = asked.keep_tool;
    if (expires == 0 or reply_len <= 0 or reply_len > max_reply or tool >= max_tools) return 0;
    const length: usize = @intCast(reply_len);
    const names = if (name_len[tool] == 0) whole(tool_len) else 0;
    const size = names + @sizeOf(Entry) + whole(args_len) + whole(length);
    while (next + size > end) {
        if (end + page > most or @wasmMemoryGrow(0, 1) < 0) {
            asked.full = 1;
            return 0;
        }
        end += page;
    }
    if (names != 0) {
        name[tool] = @ptrFromInt(next);
        name_len[tool] = tool_len;
        copy(name[tool], 0, tool_len);
    }
    const at = next + names;
    const entry: *Entry = @ptrFromInt(at);
    entry.* = .{
        .expires = expires,
        .job = 0,
        .of = .{ .tool = @intCast(tool), .args_len = @intCast(args_len), .reply_len = @intCast(length) },
    };
    copy(wordsOf(entry), max_tool, args_len);
    next += size;
    asked.kept += 1;
    const hash = hashOf(tool_len, args_len);
    index[placeFor(hash, tool_len, args_len)] = (hash << 32) | at;
    found = entry;
    return 1;
}

/// Takes eight bytes of the reply, the last ones filled up with zeros.
export fn near_put(at: usize, w: u64) void {
    wordsOf(found)[(whole(found.of.args_len) + at) / 8] = w;
}

/// Forgets all replies. Between jobs, because `asked` may name some.
export fn near_forget() void {
    @memset(index[0..slots], 0);
    @memset(&name_len, 0);
    next = first;
    asked.full = 0;
    asked.kept = 0;
}

/// Where the question is, or where nothing is, or else the first of its places.
fn placeFor(hash: u64, tool_len: usize, args_len: usize) usize {
    var i: usize = 0;
    while (i < places) : (i += 1) {
        const slot = slotOf(hash, i);
        if (index[slot] == 0) return slot;
        if (index[slot] >> 32 != hash & 0xFFFF_FFFF) continue;
        if (isOf(entryAt(index[slot]), tool_len, args_len)) return slot;
    }
    return slotOf(hash, 0);
}

inline fn entryAt(slot: u64) *Entry {
    return @ptrFromInt(@as(usize, @truncate(slot)));
}

inline fn slotOf(hash: u64, i: usize) usize {
    return (@as(usize, @truncate(hash >> 40)) + i) & (slots - 1);
}

/// Whether an entry is of the question that was taken.
inline fn isOf(entry: *Entry, tool_len: usize, args_len: usize) bool {
    return entry.of.args_len == args_len and name_len[entry.of.tool] == tool_len and
        isSame(wordsOf(entry), max_tool, args_len) and isSame(name[entry.of.tool], 0, tool_len);
}

/// Whether the words are those of the question, from `at` on.
fn isSame(words: [*]const u64, at: usize, len: usize) bool {
    var i: usize = 0;
    while (i < len) : (i += 8) {
        if (words[i / 8] != word(at + i, at + len)) return false;
    }
    return true;
}

/// Copies the words of the question, from `at` on.
fn copy(words: [*]u64, at: usize, len: usize) void {
    var i: usize = 0;
    while (i < len) : (i += 8) words[i / 8] = word(at + i, at + len);
}

fn hashOf(tool_len: usize, args_len: usize) u64 {
    var hash: u64 = tool_len;
    var i: usize = 0;
    while (i < tool_len) : (i += 8) hash = mix(hash, word(i, tool_len));
    i = 0;
    while (i < args_len) : (i += 8) hash = mix(hash, word(max_tool + i, max_tool + args_len));
    return hash ^ (hash >> 29);
}

inline fn mix(hash: u64, w: u64) u64 {
    return (((hash << 23) | (hash >> 41)) ^ w) *% 0x9E3779B97F4A7C15;
}

/// Eight bytes of the question at `at`, those from `stop` on as zeros.
inline fn word(at: usize, stop: usize) u64 {
    const w = @as(*align(8) const u64, @alignCast(@ptrCast(&question[at]))).*;
    if (at + 8 <= stop) return w;
    const bits: u6 = @intCast(8 * (at + 8 - stop));
    return (w << bits) >> bits;
}

inline fn wordsOf(entry: *Entry) [*]u64 {
    return @ptrFromInt(@intFromPtr(entry) + @sizeOf(Entry));
}

inline fn whole(len: usize) usize {
    return (len + 7) & ~@as(usize, 7);
}

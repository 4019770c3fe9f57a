//! The usual answer of a guard made into the canonical JSON of its label: what `guardpool.contract.judge` gives, byte for byte.
//!
//! The answer is hostile. It was copied into this module's own memory, which no guest can reach, and is read here once from
//! its first byte to its last. Nothing recurs, nothing is allocated, every list has an end, and whatever is not exactly the
//! usual shape gives 0: then Python judges the same answer. So this may be narrower than the contract, and never wider:
//!
//! - every name is known, spelt without an escape and given once; what must be there is there
//! - texts are UTF-8 and copied as they stand: the escapes in them are those that the canonical form has. Tags have none, so
//!   that the order of their bytes is the order of their characters
//! - what earns a warning (another operation, a tag `*`) is Python's
//!
//! Beside it, in the same module, because each memory takes 4 GiB of a process's addresses: the replies of `near_replies.zig`.

const pieces = @import("pieces.zig");

comptime {
    _ = @import("near_replies.zig");
}

/// The longest answer that is judged here, in bytes: some 750 labelled items. The largest of the sample jobs has 18,660.
const max_answer = 128 * 1024;
/// Room for every label of such answers: of a path that had no description, which takes 49 bytes, 55 are made at most.
const max_label = 160 * 1024;
/// Of one array, without duplicates. The arrays of the sample jobs have 4 at most. Keeping them sorted takes at most this
/// many comparisons a tag, which bounds the work of an answer of nothing but tags.
const max_tags = 32;

/// Texts are read and written 8 bytes at a time, so up to 7 bytes past their end; what is there is not used.
const slack = 8;

var answer: [max_answer + pieces.size + slack]u8 align(8) = undefined;
var label: [max_label + slack]u8 align(8) = undefined;

// ---- what the bridge and the host call ----

/// Where a label stands after `judge`.
export fn label_at() usize {
    return @intFromPtr(&label);
}

/// The longest answer that may be given.
export fn longest() usize {
    return max_answer;
}

/// Takes 64 bytes of an answer; past its end they may be anything.
export fn take(at: usize, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64) void {
    if (at > max_answer) return;
    pieces.write(answer[at..][0..pieces.size], a, b, c, d, e, f, g, h);
}

/// Judges the answer of `len` bytes that was taken. Operation 0 is label_resource, 1 is label_response.
/// Returns the label's length, or 0 if the answer is not of the usual shape.
export fn judge(op: usize, len: usize) usize {
    if (len > max_answer) return 0;
    // No JSON has a zero byte, neither in a text nor outside: whatever reads on from here on stops at it.
    answer[len] = 0;
    next = 0;
    made = 0;
    const whole = switch (op) {
        0 => resourceAnswer(),
        1 => if (len == 0) put("null") else responseAnswer(),
        else => error.Unusual,
    };
    whole catch return 0;
    if (len > 0) {
        skip();
        if (next != len) return 0;
    }
    return made;
}

// ---- answers ----

const Unusual = error{Unusual};

fn resourceAnswer() Unusual!void {
    var seen = Seen{};
    var operation: Text = undefined;
    try open('{');
    while (true) {
        const key = try name();
        if (is(key, "resource")) {
            try seen.now(0);
            try readLabels(&entry);
            if (!entry.described) return error.Unusual;
        } else if (is(key, "operation")) {
            try seen.now(1);
            operation = try text();
            if (!is(operation, "read") and !is(operation, "write") and !is(operation, "read-write")) return error.Unusual;
        } else return error.Unusual;
        if (!try another('}')) break;
    }
    if (!seen.all(2)) return error.Unusual;
    try put("{");
    try putLabels(&entry);
    try put(",\"operation\":\"");
    try putText(operation);
    try put("\"}");
}

fn responseAnswer() Unusual!void {
    var seen = Seen{};
    var has_default = false;
    var items_path: ?Text = null;
    try open('{');
    try put("{\"labeled_paths\":[");
    while (true) {
        const key = try name();
        if (is(key, "labeled_paths")) {
            try seen.now(0);
            try putPaths();
        } else if (is(key, "default_labels")) {
            try seen.now(1);
            has_default = !try isNull();
            if (has_default) try readLabels(&default);
        } else if (is(key, "items_path")) {
            try seen.now(2);
            items_path = if (try isNull()) null else try text();
        } else return error.Unusual;
        if (!try another('}')) break;
    }
    if (!seen.all(1)) return error.Unusual;
    if (has_default) {
        try put("],\"default_labels\":{");
        try putLabels(&default);
        try put("},\"items_path\":");
    } else {
        try put("],\"default_labels\":null,\"items_path\":");
    }
    if (items_path) |path| {
        try put("\"");
        try putText(path);
        try put("\"}");
    } else {
        try put("null}");
    }
}

/// The array of labelled paths, written while it is read: it comes first in the label, wherever it stands in the answer.
fn putPaths() Unusual!void {
    if (!try openArray()) return;
    var first = true;
    while (true) {
        var seen = Seen{};
        var path: Text = undefined;
        try open('{');
        while (true) {
            const key = try name();
            if (is(key, "path")) {
                try seen.now(0);
                path = try text();
            } else if (is(key, "labels")) {
                try seen.now(1);
                try readLabels(&entry);
            } else return error.Unusual;
            if (!try another('}')) break;
        }
        if (!seen.all(2)) return error.Unusual;
        if (!first) try put(",");
        first = false;
        try put("{\"path\":\"");
        try putText(path);
        try put("\",");
        try putLabels(&entry);
        try put("}");
        if (!try another(']')) return;
    }
}

// ---- labels ----

const Labels = struct {
    description: Text,
    described: bool,
    secrecy: Tags,
    integrity: Tags,
};

var entry: Labels = undefined;
var default: Labels = undefined;

fn readLabels(into: *Labels) Unusual!void {
    var seen = Seen{};
    into.described = false;
    into.description.len = 0;
    try open('{');
    while (true) {
        const key = try name();
        if (is(key, "secrecy")) {
            try seen.now(0);
            try readTags(&into.secrecy);
        } else if (is(key, "integrity")) {
            try seen.now(1);
            try readTags(&into.integrity);
        } else if (is(key, "description")) {
            try seen.now(2);
            into.described = true;
            into.description = try text();
        } else return error.Unusual;
        if (!try another('}')) break;
    }
    if (!seen.all(2)) return error.Unusual;
}

fn putLabels(labels: *const Labels) Unusual!void {
    try put("\"description\":\"");
    try putText(labels.description);
    try put("\",\"secrecy\":[");
    try putTags(&labels.secrecy);
    try put("],\"integrity\":[");
    try putTags(&labels.integrity);
    try put("]");
}

/// Sorted, without duplicates.
const Tags = struct {
    texts: [max_tags]Text,
    count: usize,
};

fn readTags(tags: *Tags) Unusual!void {
    tags.count = 0;
    if (!try openArray()) return;
    while (true) {
        const tag = try text();
        if (tag.escaped or (tag.len == 1 and answer[tag.at] == '*')) return error.Unusual;
        try insert(tags, tag);
        if (!try another(']')) return;
    }
}

fn insert(tags: *Tags, tag: Text) Unusual!void {
    var place = tags.count;
    while (place > 0) : (place -= 1) {
        switch (order(tags.texts[place - 1], tag)) {
            .less => break,
            .equal => return,
            .greater => {},
        }
    }
    if (tags.count == max_tags) return error.Unusual;
    var i = tags.count;
    while (i > place) : (i -= 1) tags.texts[i] = tags.texts[i - 1];
    tags.texts[place] = tag;
    tags.count += 1;
}

fn putTags(tags: *const Tags) Unusual!void {
    var i: usize = 0;
    while (i < tags.count) : (i += 1) {
        if (i > 0) try put(",");
        try put("\"");
        try putText(tags.texts[i]);
        try put("\"");
    }
}

const Order = enum { less, equal, greater };

/// The order of bytes, which in UTF-8 is that of code points.
fn order(a: Text, b: Text) Order {
    const both = @min(a.len, b.len);
    var i: usize = 0;
    while (i < both) : (i += 8) {
        var x = @byteSwap(word(a.at + i));
        var y = @byteSwap(word(b.at + i));
        if (both - i < 8) {
            const past: u6 = @intCast(64 - 8 * (both - i));
            x >>= past;
            y >>= past;
        }
        if (x != y) return if (x < y) .less else .greater;
    }
    if (a.len == b.len) return .equal;
    return if (a.len < b.len) .less else .greater;
}

// ---- reading ----

/// Where the next byte of the answer stands.
var next: usize = 0;

/// The inside of a JSON string, as it stands in the answer; in one word, so that functions return it in a register.
const Text = packed struct(u64) {
    at: u32,
    len: u31,
    escaped: bool,

    /// No text begins at 0, because a quotation mark stands before it.
    const unusual: Text = .{ .at = 0, .len = 0, .escaped = false };
};

/// Which members of an object were there.
const Seen = struct {
    bits: u8 = 0,

    fn now(self: *Seen, comptime bit: u3) Unusual!void {
        const mask = @as(u8, 1) << bit;
        if (self.bits & mask != 0) return error.Unusual;
        self.bits |= mask;
    }

    /// Whether the first `count` of them were.
    fn all(self: Seen, comptime count: u3) bool {
        const mask = (@as(u8, 1) << count) - 1;
        return self.bits & mask == mask;
    }
};

inline fn word(from: usize) u64 {
    return @as(*align(1) const u64, @ptrCast(&answer[from])).*;
}

inline fn skip() void {
    while (answer[next] <= ' ') : (next += 1) {
        const c = answer[next];
        if (c != ' ' and c != '\n' and c != '\t' and c != '\r') return;
    }
}

inline fn open(comptime bracket: u8) Unusual!void {
    skip();
    if (answer[next] != bracket) return error.Unusual;
    next += 1;
}

/// Past the start of an array: whether it has an element.
fn openArray() Unusual!bool {
    try open('[');
    skip();
    if (answer[next] != ']') return true;
    next += 1;
    return false;
}

/// Past the comma or the closing bracket behind an element: whether there is another element.
inline fn another(comptime bracket: u8) Unusual!bool {
    skip();
    const c = answer[next];
    if (c != ',' and c != bracket) return error.Unusual;
    next += 1;
    return c == ',';
}

fn name() Unusual!Text {
    const found = try text();
    try open(':');
    return found;
}

fn isNull() Unusual!bool {
    skip();
    if (answer[next] != 'n') return false;
    if (answer[next + 1] != 'u' or answer[next + 2] != 'l' or answer[next + 3] != 'l') return error.Unusual;
    next += 4;
    return true;
}

inline fn is(found: Text, comptime wanted: []const u8) bool {
    if (found.len != wanted.len) return false;
    comptime var i = 0;
    inline while (i + 8 <= wanted.len) : (i += 8) {
        if (word(found.at + i) != comptime packed8(wanted[i..])) return false;
    }
    if (i == wanted.len) return true;
    const mask = comptime (@as(u64, 1) << (8 * (wanted.len - i))) - 1;
    return word(found.at + i) & mask == comptime packed8(wanted[i..]);
}

/// The first 8 bytes as a little-endian word; zeros where there are fewer.
fn packed8(comptime bytes: []const u8) u64 {
    var found: u64 = 0;
    for (bytes, 0..) |c, i| {
        if (i < 8) found |= @as(u64, c) << (8 * i);
    }
    return found;
}

const ones: u64 = 0x0101010101010101;
const highs: u64 = 0x8080808080808080;

/// A JSON string in UTF-8 whose escapes are all as the canonical form has them.
inline fn text() Unusual!Text {
    const found = textOrUnusual();
    return if (found.at == 0) error.Unusual else found;
}

fn textOrUnusual() Text {
    skip();
    if (answer[next] != '"') return Text.unusual;
    const start = next + 1;
    var i = start;
    var escaped = false;
    while (true) {
        const w = word(i);
        // In the lowest byte that is marked the mark is right; those above it may owe theirs to a borrow.
        const marked = ((w -% ones * 0x20) & ~w) | zeros(w ^ ones * '"') | zeros(w ^ ones * '\\') | w;
        if (marked & highs == 0) {
            i += 8;
            continue;
        }
        i += @ctz(marked & highs) / 8;
        const c = answer[i];
        if (c == '"') {
            next = i + 1;
            return .{ .at = @intCast(start), .len = @intCast(i - start), .escaped = escaped };
        }
        if (c == '\\') {
            escaped = true;
            switch (answer[i + 1]) {
                '"', '\\', 'b', 'f', 'n', 'r', 't' => i += 2,
                else => return Text.unusual,
            }
        } else if (c >= 0x80) {
            const bytes = character(i);
            if (bytes == 0) return Text.unusual;
            i += bytes;
        } else {
            return Text.unusual;
        }
    }
}

inline fn zeros(w: u64) u64 {
    return (w -% ones) & ~w;
}

/// The length of the character of more than one byte at `i`, or 0. No overlong form, no surrogate, nothing past U+10FFFF.
/// Source: table 3-7 of the Unicode standard, well-formed UTF-8.
fn character(i: usize) usize {
    const first = answer[i];
    const second = answer[i + 1];
    if (first < 0xE0) {
        if (first < 0xC2 or !continues(second)) return 0;
        return 2;
    }
    const lowest: u8 = switch (first) {
        0xE0 => 0xA0,
        0xF0 => 0x90,
        else => 0x80,
    };
    const highest: u8 = switch (first) {
        0xED => 0x9F,
        0xF4 => 0x8F,
        else => 0xBF,
    };
    if (second < lowest or second > highest or !continues(answer[i + 2])) return 0;
    if (first < 0xF0) return 3;
    if (first > 0xF4 or !continues(answer[i + 3])) return 0;
    return 4;
}

inline fn continues(c: u8) bool {
    return c & 0xC0 == 0x80;
}

// ---- writing ----

/// The length of the label so far.
var made: usize = 0;

inline fn put(comptime words: []const u8) Unusual!void {
    if (made + words.len > max_label) return error.Unusual;
    comptime var i = 0;
    inline while (i < words.len) : (i += 8) write(made + i, comptime packed8(words[i..]));
    made += words.len;
}

fn putText(found: Text) Unusual!void {
    if (made + found.len > max_label) return error.Unusual;
    var i: usize = 0;
    while (i < found.len) : (i += 8) write(made + i, word(found.at + i));
    made += found.len;
}

inline fn write(to: usize, w: u64) void {
    @as(*align(1) u64, @ptrCast(&label[to])).* = w;
}

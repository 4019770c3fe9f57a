//! Is a repository public? What the data says, else what the backend says, else: private.
//!
//! Answers of the backend are kept, as repositories come up again and again. The table is of fixed size, so that
//! no traffic can make it grow: a repository that finds its row full takes another's place. That a question had no
//! answer is kept too, for a while: a guard without a backend should not ask at every call.

const std = @import("std");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const Arena = @import("heap.zig").Arena;
const Node = json.Node;
const Repo = labels.Repo;

pub const Visibility = enum { unknown, public, private };

const Entry = struct {
    repo: Repo,
    visibility: Visibility,
    /// How many more times an unknown answer is taken for granted.
    patience: u8,
};

/// A repository's place is one of `ways` in its row; a full row gives up its places in turn.
const rows = 64;
const ways = 8;
/// After a failure, ask again at every so many-th time.
const patience = 64;
/// Questions per call: below the contract's 50. A page that mixes more repositories is private where in doubt.
const max_questions = 20;

const Row = struct { entries: [ways]Entry, next: u8 };

var table = std.mem.zeroes([rows]Row);
var questions: u32 = 0;

pub fn beginCall() void {
    questions = 0;
}

pub fn questionsAsked() u32 {
    return questions;
}

/// What is known of the repository, asking the backend if need be.
pub fn of(arena: *Arena, repo: *const Repo) Visibility {
    const hash: u32 = @truncate(std.hash.Wyhash.hash(0, repo.text()));
    const row = &table[hash % rows];
    const kept = find(row, repo);
    if (kept) |entry| {
        if (entry.visibility != .unknown) {
            host.debug("  visibility of {s}: {s} (asked before)", .{ repo.text(), @tagName(entry.visibility) });
            return entry.visibility;
        }
        if (entry.patience > 0) {
            entry.patience -= 1;
            host.debug("  visibility of {s}: unknown (had no answer lately)", .{repo.text()});
            return .unknown;
        }
    }
    if (questions >= max_questions) {
        host.warning("visibility of {s}: unknown ({d} questions in one call are enough)", .{ repo.text(), questions });
        return .unknown;
    }
    questions += 1;
    const found = askBackend(arena, repo);
    const entry = kept orelse place(row);
    entry.* = .{ .repo = repo.*, .visibility = found, .patience = patience };
    if (found == .unknown) {
        host.info("visibility of {s}: no answer, taken for private", .{repo.text()});
    } else {
        host.debug("  visibility of {s}: {s} (backend)", .{ repo.text(), @tagName(found) });
    }
    return found;
}

fn find(row: *Row, repo: *const Repo) ?*Entry {
    for (&row.entries) |*entry| if (entry.repo.eql(repo)) return entry;
    return null;
}

fn place(row: *Row) *Entry {
    const at = row.next % ways;
    row.next = at + 1;
    return &row.entries[at];
}

fn askBackend(arena: *Arena, repo: *const Repo) Visibility {
    // A repository's name holds nothing that JSON would have to escape.
    var args: [labels.max_repo + 64]u8 = undefined;
    const question = "{{\"query\":\"repo:{s}\",\"perPage\":10}}";
    const text = std.fmt.bufPrint(&args, question, .{repo.text()}) catch return .unknown;
    const answer = host.ask(arena, "search_repositories", text) orelse return .unknown;
    const parsed = json.parse(arena, answer) catch return .unknown;
    const page = unwrap(arena, parsed.root);
    const found = page.array(.items) orelse page.array(.repositories) orelse
        return if (names(page, repo)) ofObject(page) else .unknown;
    var child = found.first();
    while (child) |item| : (child = item.next) {
        // A search may find others too: only the repository that was asked about counts.
        if (names(item, repo)) return ofObject(item);
    }
    return .unknown;
}

fn names(object: *const Node, repo: *const Repo) bool {
    const full = object.string(.full_name) orelse object.string(.nameWithOwner) orelse return false;
    return std.ascii.eqlIgnoreCase(full, repo.text());
}

/// What a repository object says of itself. Two statements that differ make it private.
pub fn ofObject(object: ?*const Node) Visibility {
    var said: Visibility = .unknown;
    if (Node.boolean(object, .private) orelse Node.boolean(object, .isPrivate)) |private| {
        if (private) return .private;
        said = .public;
    }
    if (Node.string(object, .visibility)) |word| {
        if (!std.ascii.eqlIgnoreCase(word, "public")) return .private;
        said = .public;
    }
    return said;
}

/// The payload of an MCP result `{"content": [{"type": "text", "text": "<JSON>"}]}`; anything else as it is.
pub fn unwrap(arena: *Arena, result: *const Node) *const Node {
    const parts = result.array(.content) orelse return result;
    const text = joinedText(arena, parts) catch return result;
    const parsed = json.parse(arena, text orelse return result) catch |err| {
        host.debug("  MCP text is no JSON ({s}): the result stays whole", .{@errorName(err)});
        return result;
    };
    host.debug("  MCP result: {d} parts, {d} bytes of text, {d} nodes", .{ parts.b, text.?.len, parsed.nodes });
    return parsed.root;
}

fn joinedText(arena: *Arena, parts: *const Node) !?[]const u8 {
    var total: usize = 0;
    var count: usize = 0;
    var only: []const u8 = "";
    var child = parts.first();
    while (child) |part| : (child = part.next) {
        const text = partText(part) orelse continue;
        total += text.len;
        count += 1;
        only = text;
    }
    if (count == 0) return null;
    if (count == 1) return only;
    const joined = try arena.bytes(total, 1);
    var at: usize = 0;
    child = parts.first();
    while (child) |part| : (child = part.next) {
        const text = partText(part) orelse continue;
        @memcpy(joined[at..][0..text.len], text);
        at += text.len;
    }
    return joined;
}

fn partText(part: *const Node) ?[]const u8 {
    if (part.string(.type)) |kind| {
        for ([_][]const u8{ "image", "audio", "resource" }) |other| if (std.mem.eql(u8, kind, other)) return null;
    }
    return part.string(.text);
}

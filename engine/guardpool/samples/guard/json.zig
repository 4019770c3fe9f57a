//! A document of what the rules look at, and nothing else.
//!
//! `std.json.Scanner` reads (and so checks) every byte; members whose name no rule knows are skipped without a node, as
//! are numbers, booleans and nulls in arrays and strings longer than any rule wants. So an issue of 5 KB costs a dozen
//! nodes, and what a document may cost in memory is bounded by what it says, not by how it is nested: recursion ends
//! at `max_depth`, below which values are skipped by the scanner, which does not recurse.

const std = @import("std");
const Arena = @import("heap.zig").Arena;
const Scanner = std.json.Scanner;

/// The names of members that some rule looks at.
pub const Key = enum(u8) {
    none,
    // the call
    tool_name,
    tool_args,
    tool_result,
    // arguments
    owner,
    repo,
    org,
    issue_number,
    pull_number,
    pullNumber,
    discussionNumber,
    alertNumber,
    number,
    sha,
    ref,
    branch,
    tag,
    path,
    query,
    method,
    private,
    username,
    // MCP
    content,
    type,
    text,
    isError,
    // pages
    items,
    issues,
    pull_requests,
    repositories,
    commits,
    workflow_runs,
    jobs,
    artifacts,
    workflows,
    comments,
    reviews,
    discussions,
    branches,
    tags,
    releases,
    alerts,
    nodes,
    data,
    repository,
    search,
    pullRequests,
    total_count,
    totalCount,
    // things
    full_name,
    nameWithOwner,
    name,
    visibility,
    isPrivate,
    base,
    head,
    user,
    author,
    committer,
    login,
    author_association,
    authorAssociation,
    merged,
    merged_at,
    mergedAt,
    state,
    labels,
    html_url,
    url,
    repository_url,
    public,
    id,
    pull_request,
    // the policy
    @"allow-only",
    allowonly,
    @"trusted-bots",
    repos,
    @"min-integrity",
    integrity,
    @"blocked-users",
    @"trusted-users",
    @"approval-labels",
    @"refusal-labels",
};

const names = blk: {
    @setEvalBranchQuota(20000);
    const fields = std.meta.fields(Key)[1..];
    var pairs: [fields.len]struct { []const u8, Key } = undefined;
    for (fields, 0..) |field, i| pairs[i] = .{ field.name, @enumFromInt(field.value) };
    break :blk std.StaticStringMap(Key).initComptime(pairs);
};

pub const Kind = enum(u8) { null, true, false, number, string, array, object, skipped };

pub const Node = struct {
    kind: Kind,
    key: Key,
    /// The place in its array.
    index: u32,
    next: ?*Node = null,
    /// Text of a string or a number; the first child and how many elements or members there are (kept or not).
    a: usize = 0,
    b: usize = 0,

    pub fn text(self: *const Node) []const u8 {
        if (self.b == 0) return "";
        return @as([*]const u8, @ptrFromInt(self.a))[0..self.b];
    }

    pub fn first(self: *const Node) ?*Node {
        return if (self.a == 0) null else @ptrFromInt(self.a);
    }

    /// The member of this name. Of two with one name the last counts, as for every common reader of JSON: members stand
    /// in the list last first.
    pub fn get(self: ?*const Node, key: Key) ?*const Node {
        const node = self orelse return null;
        if (node.kind != .object) return null;
        var child = node.first();
        while (child) |c| : (child = c.next) {
            if (c.key == key) return c;
        }
        return null;
    }

    pub fn string(self: ?*const Node, key: Key) ?[]const u8 {
        const node = get(self, key) orelse return null;
        return if (node.kind == .string) node.text() else null;
    }

    /// The string of this name; "" where there is none, `unreadable` where something else or too long a string stands.
    pub fn stated(self: ?*const Node, key: Key) []const u8 {
        const node = get(self, key) orelse return "";
        return switch (node.kind) {
            .null => "",
            .string => node.text(),
            else => unreadable,
        };
    }

    /// Digits of a number, or of a string that holds nothing else.
    pub fn digits(self: ?*const Node, key: Key) ?[]const u8 {
        const node = get(self, key) orelse return null;
        if (node.kind != .number and node.kind != .string) return null;
        const t = node.text();
        if (t.len == 0 or t.len > 19) return null;
        for (t) |c| if (!std.ascii.isDigit(c)) return null;
        return t;
    }

    pub fn boolean(self: ?*const Node, key: Key) ?bool {
        const node = get(self, key) orelse return null;
        return switch (node.kind) {
            .true => true,
            .false => false,
            else => null,
        };
    }

    pub fn array(self: ?*const Node, key: Key) ?*const Node {
        const node = get(self, key) orelse return null;
        return if (node.kind == .array) node else null;
    }

    pub fn object(self: ?*const Node, key: Key) ?*const Node {
        const node = get(self, key) orelse return null;
        return if (node.kind == .object) node else null;
    }
};

pub const Error = error{ Syntax, OutOfMemory };

/// No rule looks deeper; data.repository.issues.nodes[i].author.login inside a tool result is 8 deep.
const max_depth = 24;
/// Longest string that is kept, in bytes; only the text parts of an MCP result may be longer.
pub const max_string = 1024;

/// Stands for text that was not kept, where to take it for absent would be too kind.
pub const unreadable = "?unreadable";

pub const Parsed = struct { root: *Node, nodes: usize };

/// Reads one document, which must be the whole of `input`. Strings without escapes point into `input`.
pub fn parse(arena: *Arena, input: []const u8) Error!Parsed {
    var parser = Parser{ .arena = arena, .scanner = Scanner.initCompleteInput(arena.allocator(), input) };
    const root = parser.value(.none, 0, 0) catch |err| return translate(err);
    const end = parser.scanner.next() catch |err| return translate(err);
    if (end != .end_of_document) return error.Syntax;
    return .{ .root = root, .nodes = parser.nodes };
}

fn translate(err: anyerror) Error {
    return if (err == error.OutOfMemory) error.OutOfMemory else error.Syntax;
}

const Parser = struct {
    arena: *Arena,
    scanner: Scanner,
    nodes: usize = 0,

    const Failure = Scanner.NextError || Scanner.AllocError;

    fn node(self: *Parser, kind: Kind, key: Key, index: u32) Failure!*Node {
        const made = try self.arena.create(Node);
        made.* = .{ .kind = kind, .key = key, .index = index };
        self.nodes += 1;
        return made;
    }

    fn value(self: *Parser, key: Key, index: u32, depth: u32) Failure!*Node {
        switch (try self.scanner.peekNextTokenType()) {
            .object_begin => {
                if (depth >= max_depth) return self.skipped(key, index);
                return self.object(try self.node(.object, key, index), depth);
            },
            .array_begin => {
                if (depth >= max_depth) return self.skipped(key, index);
                return self.array(try self.node(.array, key, index), depth);
            },
            .string => {
                const made = try self.node(.string, key, index);
                const read = if (key == .text) try self.longString() else try self.shortString();
                if (read) |t| {
                    made.a = @intFromPtr(t.ptr);
                    made.b = t.len;
                } else made.kind = .skipped;
                return made;
            },
            .number => {
                const made = try self.node(.number, key, index);
                const token = try self.scanner.next();
                // With the whole input at hand a number comes in one piece.
                if (token == .number) {
                    made.a = @intFromPtr(token.number.ptr);
                    made.b = token.number.len;
                }
                return made;
            },
            .true, .false, .null => |literal| {
                _ = try self.scanner.next();
                return self.node(switch (literal) {
                    .true => .true,
                    .false => .false,
                    else => .null,
                }, key, index);
            },
            .object_end, .array_end, .end_of_document => return error.SyntaxError,
        }
    }

    fn skipped(self: *Parser, key: Key, index: u32) Failure!*Node {
        try self.skip();
        return self.node(.skipped, key, index);
    }

    fn skip(self: *Parser) Failure!void {
        // `skipValue` takes it for granted that a value comes.
        switch (try self.scanner.peekNextTokenType()) {
            .object_end, .array_end, .end_of_document => return error.SyntaxError,
            .object_begin, .array_begin => {
                const height = self.scanner.stackHeight();
                _ = try self.scanner.next();
                while (self.scanner.stackHeight() > height) _ = try self.scanner.next();
            },
            else => try self.scanner.skipValue(),
        }
    }

    fn object(self: *Parser, made: *Node, depth: u32) Failure!*Node {
        _ = try self.scanner.next();
        while (true) {
            switch (try self.scanner.peekNextTokenType()) {
                .object_end => {
                    _ = try self.scanner.next();
                    return made;
                },
                .string => {},
                else => return error.SyntaxError,
            }
            const key = try self.memberName();
            made.b += 1;
            if (key == .none) {
                try self.skip();
                continue;
            }
            const child = try self.value(key, 0, depth + 1);
            child.next = made.first();
            made.a = @intFromPtr(child);
        }
    }

    fn array(self: *Parser, made: *Node, depth: u32) Failure!*Node {
        _ = try self.scanner.next();
        var last: ?*Node = null;
        while (true) {
            const index: u32 = @intCast(made.b);
            switch (try self.scanner.peekNextTokenType()) {
                .array_end => {
                    _ = try self.scanner.next();
                    return made;
                },
                .number, .true, .false, .null => try self.skip(),
                else => {
                    const child = try self.value(.none, index, depth + 1);
                    if (last) |l| l.next = child else made.a = @intFromPtr(child);
                    last = child;
                },
            }
            made.b += 1;
        }
    }

    fn memberName(self: *Parser) Failure!Key {
        var buffer: [64]u8 = undefined;
        const name = (try self.collect(&buffer, buffer.len)) orelse return .none;
        return names.get(name) orelse .none;
    }

    // Not inlined: the buffer must not be in the frame of `value`, which recurs.
    noinline fn shortString(self: *Parser) Failure!?[]const u8 {
        var buffer: [max_string]u8 = undefined;
        const read = (try self.collect(&buffer, max_string)) orelse return null;
        if (read.ptr != &buffer) return read;
        return try self.arena.dupe(read);
    }

    fn longString(self: *Parser) Failure!?[]const u8 {
        // Unescaped text is never longer than escaped text: one allocation of the right order, cut to size after.
        const input = self.scanner.input;
        var end = self.scanner.cursor + 1;
        var escapes = false;
        while (end < input.len and input[end] != '"') : (end += 1) {
            if (input[end] == '\\') {
                escapes = true;
                end += 1;
            }
        }
        if (!escapes) return self.collect(&.{}, input.len);
        const bound = @min(end, input.len) - self.scanner.cursor;
        const buffer = try self.arena.bytes(bound, 1);
        const read = (try self.collect(buffer, input.len)) orelse return null;
        return if (read.ptr == buffer.ptr) self.arena.shrink(buffer, read.len) else read;
    }

    /// The next string: a slice of the input where it has no escapes, else unescaped into `buffer`; null when it is
    /// longer than `longest` or than the buffer.
    fn collect(self: *Parser, buffer: []u8, longest: usize) Failure!?[]const u8 {
        var len: usize = 0;
        var fits = true;
        while (true) {
            var escaped: [4]u8 = undefined;
            var done = false;
            const piece: []const u8 = switch (try self.scanner.next()) {
                .string => |s| blk: {
                    if (len == 0 and fits) return if (s.len <= longest) s else null;
                    done = true;
                    break :blk s;
                },
                .partial_string => |s| s,
                .partial_string_escaped_1 => |s| copy(&escaped, &s),
                .partial_string_escaped_2 => |s| copy(&escaped, &s),
                .partial_string_escaped_3 => |s| copy(&escaped, &s),
                .partial_string_escaped_4 => |s| copy(&escaped, &s),
                else => return error.SyntaxError,
            };
            if (fits and piece.len <= buffer.len - len) {
                @memcpy(buffer[len..][0..piece.len], piece);
                len += piece.len;
            } else fits = false;
            if (done) return if (fits) buffer[0..len] else null;
        }
    }

    fn copy(into: *[4]u8, bytes: []const u8) []const u8 {
        @memcpy(into[0..bytes.len], bytes);
        return into[0..bytes.len];
    }
};

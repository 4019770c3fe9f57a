//! Levels, scopes and tags: how a label is named.
//!
//! An integrity level stands for its own tag and those of every level below: an agent that needs `approved:s` is
//! content with `merged:s`. `blocked` is below `none` and has no tag at all, so that nothing is content with it.

const std = @import("std");
const host = @import("host.zig");
const Out = @import("out.zig").Out;
const policies = @import("policy.zig");

pub const Level = enum(u8) {
    blocked,
    none,
    unapproved,
    approved,
    merged,

    pub fn name(self: Level) []const u8 {
        return @tagName(self);
    }

    pub fn atLeast(self: Level, other: Level) Level {
        return if (@intFromEnum(other) > @intFromEnum(self)) other else self;
    }

    pub fn parse(text: []const u8) ?Level {
        const word = std.mem.trim(u8, text, " \t\r\n");
        inline for (.{ Level.none, Level.unapproved, Level.approved, Level.merged }) |level| {
            if (std.ascii.eqlIgnoreCase(word, level.name())) return level;
        }
        return null;
    }

    /// What GitHub says of an author, as a level: the floor that an object starts from.
    pub fn ofAssociation(text: []const u8) Level {
        const known = [_]struct { []const u8, Level }{
            .{ "OWNER", .approved },        .{ "MEMBER", .approved },
            .{ "COLLABORATOR", .approved }, .{ "CONTRIBUTOR", .unapproved },
            .{ "NONE", .unapproved },       .{ "FIRST_TIME_CONTRIBUTOR", .unapproved },
        };
        for (known) |entry| if (std.ascii.eqlIgnoreCase(text, entry[0])) return entry[1];
        return .none; // FIRST_TIMER, MANNEQUIN, and whatever GitHub may say one day
    }
};

const max_owner = 39;
const max_name = 100;
pub const max_repo = max_owner + 1 + max_name;

/// A repository: both names valid and in lower case, as GitHub takes them for equal in any case.
pub const Repo = struct {
    buffer: [max_repo]u8 = undefined,
    len: u8 = 0,
    owner_len: u8 = 0,

    pub fn init(owner: []const u8, name: []const u8) ?Repo {
        if (owner.len == 0 or owner.len > max_owner or name.len == 0 or name.len > max_name) return null;
        if (std.mem.eql(u8, name, ".") or std.mem.eql(u8, name, "..")) return null;
        var repo = Repo{ .len = @intCast(owner.len + 1 + name.len), .owner_len = @intCast(owner.len) };
        for (owner, 0..) |c, i| {
            if (!std.ascii.isAlphanumeric(c) and c != '-' and c != '_') return null;
            repo.buffer[i] = std.ascii.toLower(c);
        }
        repo.buffer[owner.len] = '/';
        for (name, owner.len + 1..) |c, i| {
            if (!std.ascii.isAlphanumeric(c) and c != '-' and c != '_' and c != '.') return null;
            repo.buffer[i] = std.ascii.toLower(c);
        }
        return repo;
    }

    /// `owner/name`, with nothing before or after.
    pub fn parse(full: []const u8) ?Repo {
        const slash = std.mem.indexOfScalar(u8, full, '/') orelse return null;
        return init(full[0..slash], full[slash + 1 ..]);
    }

    /// The repository of an API or web address.
    pub fn ofUrl(url: []const u8) ?Repo {
        const marks = [_][]const u8{ "https://api.github.com/repos/", "https://github.com/" };
        for (marks) |mark| {
            if (std.mem.startsWith(u8, url, mark)) return ofPath(url[mark.len..]);
        }
        const at = std.mem.indexOf(u8, url, "/api/v3/repos/") orelse return null;
        return ofPath(url[at + "/api/v3/repos/".len ..]);
    }

    fn ofPath(path: []const u8) ?Repo {
        var parts = std.mem.splitScalar(u8, path, '/');
        const owner = parts.next() orelse return null;
        const name = parts.next() orelse return null;
        return init(owner, name);
    }

    pub fn text(self: *const Repo) []const u8 {
        return self.buffer[0..self.len];
    }

    pub fn ownerText(self: *const Repo) []const u8 {
        return self.buffer[0..self.owner_len];
    }

    pub fn nameText(self: *const Repo) []const u8 {
        return self.buffer[self.owner_len + 1 .. self.len];
    }

    pub fn eql(self: *const Repo, other: *const Repo) bool {
        return std.mem.eql(u8, self.text(), other.text());
    }
};

/// What an integrity tag is about.
pub const Scope = union(enum) {
    repo: Repo,
    /// A word of its own: `github`, `user`, or an owner's name.
    word: []const u8,
    /// Nothing is known: tags carry the level alone, unless the policy is about everything.
    none,

    pub fn of(repo: ?Repo) Scope {
        return if (repo) |r| .{ .repo = r } else .none;
    }
};

pub const Secrecy = union(enum) {
    /// Known to be public: no tag.
    public,
    /// Private to one repository, or not known to be public.
    repo: Repo,
    /// Private to a user or an owner.
    word: []const u8,
    /// Private, to whom is not known.
    unscoped,
};

pub const Label = struct {
    secrecy: Secrecy,
    level: Level,
    scope: Scope,
};

/// The scope as tags name it: the policy's own word for what the policy covers, so that it meets the agent's tags.
pub fn scopeText(scope: *const Scope, policy: *const policies.Policy) []const u8 {
    if (policy.covers_all) return policy.token;
    return switch (scope.*) {
        .repo => |*repo| if (policy.matching(repo) != null) policy.token else repo.text(),
        .word => |word| word,
        .none => "",
    };
}

pub fn writeLevels(out: *Out, level: Level, scope: []const u8, composite: bool) void {
    out.raw("[");
    var rank: u8 = 1;
    while (rank <= @intFromEnum(level)) : (rank += 1) {
        const word = @as(Level, @enumFromInt(rank)).name();
        out.raw(if (rank > 1) ",\"" else "\"");
        if (composite) {
            out.raw("integrity=");
            out.raw(word);
            out.raw(";scopes=");
        } else {
            out.raw(word);
            if (scope.len > 0) out.raw(":");
        }
        out.escaped(scope);
        out.raw("\"");
    }
    out.raw("]");
}

pub fn writeSecrecy(out: *Out, secrecy: *const Secrecy, policy: *const policies.Policy) void {
    switch (secrecy.*) {
        .public => out.raw("[]"),
        .unscoped => out.raw("[\"private\"]"),
        .repo => |*repo| writePrivate(out, if (policy.matching(repo)) |entry| entry.label else repo.text()),
        .word => |word| writePrivate(out, word),
    }
}

fn writePrivate(out: *Out, scope: []const u8) void {
    out.raw("[\"private:");
    out.escaped(scope);
    out.raw("\"]");
}

/// `{"description": ..., "secrecy": [...], "integrity": [...]}` of a label, with the lines that say so in the log.
pub fn write(out: *Out, description: []const u8, label: *const Label, policy: *const policies.Policy) void {
    out.raw("{\"description\":");
    out.string(description);
    out.raw(",\"secrecy\":");
    writeSecrecy(out, &label.secrecy, policy);
    out.raw(",\"integrity\":");
    const scope = scopeText(&label.scope, policy);
    const composite = policy.composite and scope.ptr == policy.token.ptr;
    writeLevels(out, label.level, scope, composite);
    out.raw("}");
    host.debug("    label: {s}", .{host.shown(description)});
    logSecrecy(&label.secrecy, policy);
    host.debug("    integrity: {s} and below, scope '{s}'", .{ label.level.name(), host.shown(scope) });
}

fn logSecrecy(secrecy: *const Secrecy, policy: *const policies.Policy) void {
    switch (secrecy.*) {
        .public => host.debug("    secrecy: public", .{}),
        .unscoped => host.debug("    secrecy: private, to whom is not known", .{}),
        .word => |word| host.debug("    secrecy: private to {s}", .{host.shown(word)}),
        .repo => |*repo| host.debug("    secrecy: private to {s}, in the policy's scope={}", .{
            repo.text(), policy.covers_all or policy.matching(repo) != null,
        }),
    }
}

// Behaviour of the ECP5's block RAM as Yosys maps memories to it, for simulating netlists; Yosys itself
// has only a black box. No output registers, no asynchronous reset, both clocks rising. What real silicon
// leaves undefined, reading what the other port writes in the same cycle, gives the old content here.
// Reference: Lattice FPGA-TN-02204, ECP5 and ECP5-5G Memory User Guide.
`default_nettype none

module DP16KD #(
    parameter DATA_WIDTH_A = 18,            // bits of a port: 1, 2, 4, 9, 18, or 36 (both halves, see below)
    parameter DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG",          // only this
    parameter REGMODE_B = "NOREG",
    parameter RESETMODE = "SYNC",           // if "ASYNC", the RST pins must stay low
    parameter ASYNC_RESET_RELEASE = "SYNC",
    parameter CSDECODE_A = "0b000",         // only this: the CS pins are low
    parameter CSDECODE_B = "0b000",
    parameter CLKAMUX = "CLKA",             // only this
    parameter CLKBMUX = "CLKB",
    parameter WRITEMODE_A = "NORMAL",       // what a port reads while it writes: nothing, the new, the old
    parameter WRITEMODE_B = "NORMAL",
    parameter GSR = "AUTO",
    parameter [319:0] INITVAL_00 = 320'b0,
    parameter [319:0] INITVAL_01 = 320'b0,
    parameter [319:0] INITVAL_02 = 320'b0,
    parameter [319:0] INITVAL_03 = 320'b0,
    parameter [319:0] INITVAL_04 = 320'b0,
    parameter [319:0] INITVAL_05 = 320'b0,
    parameter [319:0] INITVAL_06 = 320'b0,
    parameter [319:0] INITVAL_07 = 320'b0,
    parameter [319:0] INITVAL_08 = 320'b0,
    parameter [319:0] INITVAL_09 = 320'b0,
    parameter [319:0] INITVAL_0A = 320'b0,
    parameter [319:0] INITVAL_0B = 320'b0,
    parameter [319:0] INITVAL_0C = 320'b0,
    parameter [319:0] INITVAL_0D = 320'b0,
    parameter [319:0] INITVAL_0E = 320'b0,
    parameter [319:0] INITVAL_0F = 320'b0,
    parameter [319:0] INITVAL_10 = 320'b0,
    parameter [319:0] INITVAL_11 = 320'b0,
    parameter [319:0] INITVAL_12 = 320'b0,
    parameter [319:0] INITVAL_13 = 320'b0,
    parameter [319:0] INITVAL_14 = 320'b0,
    parameter [319:0] INITVAL_15 = 320'b0,
    parameter [319:0] INITVAL_16 = 320'b0,
    parameter [319:0] INITVAL_17 = 320'b0,
    parameter [319:0] INITVAL_18 = 320'b0,
    parameter [319:0] INITVAL_19 = 320'b0,
    parameter [319:0] INITVAL_1A = 320'b0,
    parameter [319:0] INITVAL_1B = 320'b0,
    parameter [319:0] INITVAL_1C = 320'b0,
    parameter [319:0] INITVAL_1D = 320'b0,
    parameter [319:0] INITVAL_1E = 320'b0,
    parameter [319:0] INITVAL_1F = 320'b0,
    parameter [319:0] INITVAL_20 = 320'b0,
    parameter [319:0] INITVAL_21 = 320'b0,
    parameter [319:0] INITVAL_22 = 320'b0,
    parameter [319:0] INITVAL_23 = 320'b0,
    parameter [319:0] INITVAL_24 = 320'b0,
    parameter [319:0] INITVAL_25 = 320'b0,
    parameter [319:0] INITVAL_26 = 320'b0,
    parameter [319:0] INITVAL_27 = 320'b0,
    parameter [319:0] INITVAL_28 = 320'b0,
    parameter [319:0] INITVAL_29 = 320'b0,
    parameter [319:0] INITVAL_2A = 320'b0,
    parameter [319:0] INITVAL_2B = 320'b0,
    parameter [319:0] INITVAL_2C = 320'b0,
    parameter [319:0] INITVAL_2D = 320'b0,
    parameter [319:0] INITVAL_2E = 320'b0,
    parameter [319:0] INITVAL_2F = 320'b0,
    parameter [319:0] INITVAL_30 = 320'b0,
    parameter [319:0] INITVAL_31 = 320'b0,
    parameter [319:0] INITVAL_32 = 320'b0,
    parameter [319:0] INITVAL_33 = 320'b0,
    parameter [319:0] INITVAL_34 = 320'b0,
    parameter [319:0] INITVAL_35 = 320'b0,
    parameter [319:0] INITVAL_36 = 320'b0,
    parameter [319:0] INITVAL_37 = 320'b0,
    parameter [319:0] INITVAL_38 = 320'b0,
    parameter [319:0] INITVAL_39 = 320'b0,
    parameter [319:0] INITVAL_3A = 320'b0,
    parameter [319:0] INITVAL_3B = 320'b0,
    parameter [319:0] INITVAL_3C = 320'b0,
    parameter [319:0] INITVAL_3D = 320'b0,
    parameter [319:0] INITVAL_3E = 320'b0,
    parameter [319:0] INITVAL_3F = 320'b0
) (
    input wire DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6,
    DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input wire ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1,
    ADA0,
    input wire CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output wire DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6,
    DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input wire DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6,
    DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input wire ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1,
    ADB0,
    input wire CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output wire DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6,
    DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    // With 36 bits, port A writes (its data are DIB and DIA, its byte enables ADA3 to ADA0) or port B
    // reads (on DOB and DOA): two rows of 18 at a time.
    localparam [64 * 320 - 1:0] INIT =
        {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
        INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32,
        INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B,
        INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24,
        INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D,
        INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16,
        INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F,
        INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00};

    initial begin
        if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CSDECODE_A != "0b000" || CSDECODE_B != "0b000"
            || CLKAMUX != "CLKA" || CLKBMUX != "CLKB" || DATA_WIDTH_A > 36 || DATA_WIDTH_B > 36)
            $error("DP16KD: this mode is not modelled");
    end

    always @(posedge CLKB)
        if (RESETMODE != "SYNC" && (RSTA || RSTB)) $error("DP16KD: asynchronous reset is not modelled");

    reg [17:0] rows [0:1023];
    integer row;
    initial
        for (row = 0; row < 1024; row = row + 1) rows[row] = INIT[row * 20 +: 18];

    wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7,
    DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
    DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3,
    ADA2, ADA1, ADA0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3,
    ADB2, ADB1, ADB0};

    // Where a port of 9 bits or fewer finds its bits in a row: two halves of 9, the ninth bit for those
    // of 9 alone.
    function [4:0] place(input integer width, input [13:0] address);
        case (width)
            9: place = address[3] ? 9 : 0;
            4: place = (address[3] ? 9 : 0) + {2'b0, address[2], 2'b0};
            2: place = (address[3] ? 9 : 0) + {2'b0, address[2:1], 1'b0};
            1: place = (address[3] ? 9 : 0) + {2'b0, address[2:0]};
            default: place = 0;
        endcase
    endfunction

    function [17:0] mask(input integer width, input [13:0] address);
        case (width)
            36, 18: mask = {{9{address[1]}}, {9{address[0]}}};
            default: mask = ((18'd1 << width) - 18'd1) << place(width, address);
        endcase
    endfunction

    function [17:0] taken(input integer width, input [13:0] address, input [17:0] content);
        taken = width >= 18 ? content : (content >> place(width, address)) & ((18'd1 << width) - 18'd1);
    endfunction

    wire [17:0] mask_a = mask(DATA_WIDTH_A, ada), mask_b = mask(DATA_WIDTH_B, adb);
    wire [17:0] data_a = DATA_WIDTH_A >= 18 ? dia : dia << place(DATA_WIDTH_A, ada);
    wire [17:0] data_b = DATA_WIDTH_B >= 18 ? dib : dib << place(DATA_WIDTH_B, adb);
    wire [9:0] row_a = DATA_WIDTH_A == 36 ? {ada[13:5], 1'b0} : ada[13:4];
    wire [9:0] row_b = DATA_WIDTH_B == 36 ? {adb[13:5], 1'b0} : adb[13:4];
    wire [17:0] old_a = rows[row_a], old_b = rows[row_b];
    wire [17:0] new_a = (old_a & ~mask_a) | (data_a & mask_a), new_b = (old_b & ~mask_b) | (data_b & mask_b);
    wire [9:0] upper_a = {ada[13:5], 1'b1}, upper_b = {adb[13:5], 1'b1};
    wire [17:0] upper_mask = {{9{ada[3]}}, {9{ada[2]}}};

    reg [17:0] doa = 0, dob = 0, upper = 0;

    always @(posedge CLKA) begin
        if (CEA && WEA) begin
            rows[row_a] <= new_a;
            if (DATA_WIDTH_A == 36) rows[upper_a] <= (rows[upper_a] & ~upper_mask) | (dib & upper_mask);
        end
        if (RSTA) doa <= 0;
        else if (CEA && (!WEA || WRITEMODE_A != "NORMAL"))
            doa <= taken(DATA_WIDTH_A, ada, WEA && WRITEMODE_A == "WRITETHROUGH" ? new_a : old_a);
    end

    always @(posedge CLKB) begin
        if (CEB && WEB && DATA_WIDTH_B != 36) rows[row_b] <= new_b;
        if (RSTB) begin
            dob <= 0;
            upper <= 0;
        end else if (CEB && (!WEB || WRITEMODE_B != "NORMAL")) begin
            dob <= taken(DATA_WIDTH_B, adb, WEB && WRITEMODE_B == "WRITETHROUGH" ? new_b : old_b);
            upper <= rows[upper_b];
        end
    end

    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6,
    DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = DATA_WIDTH_B == 36 ? dob : doa;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6,
    DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} = DATA_WIDTH_B == 36 ? upper : dob;
endmodule

`default_nettype wire
